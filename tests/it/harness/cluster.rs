//! A real Slurm: a controller and two nodes on this machine, started by the ordinary user in a directory of the test.
//!
//! Each node has a /tmp of its own, as Slurm's PMIx plugin and sbcast want it: it lies in a user namespace of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::run::Run;
use super::site::Site;
use super::skip::find;
use super::wait::wait_for;

pub struct Cluster {
    dir: PathBuf,
    /// In the order in which they are ended.
    daemons: Vec<Child>,
}

/// Leaves the test, visibly, unless Slurm is installed.
#[macro_export]
macro_rules! needs_slurm {
    () => {
        $crate::needs!(
            "munged",
            "slurmctld",
            "slurmd",
            "srun",
            "sbatch",
            "scancel",
            "squeue",
            "sinfo",
            "unshare",
            "setpriv"
        );
    };
}

impl Cluster {
    /// The caller says `needs_slurm!()` first.
    pub fn start(site: &Site) -> Cluster {
        // Somebody else may take a free port before a server does.
        let mut tries = (0..5).filter_map(|n| Cluster::try_start(site.path(&format!("slurm{n}"))));
        tries.next().expect("Slurm does not start")
    }

    fn try_start(dir: PathBuf) -> Option<Cluster> {
        for name in ["state", "n1", "n2"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("munge.key"), [7; 1024]).unwrap();
        std::fs::set_permissions(dir.join("munge.key"), std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        fs::write(dir.join("cgroup.conf"), "CgroupPlugin=autodetect\n").unwrap();
        fs::write(dir.join("slurm.conf"), configuration(&dir)).unwrap();
        let mut cluster = Cluster { dir, daemons: Vec::new() };
        let path = |name: &str| cluster.dir.join(name).display().to_string();
        let munged = [
            "--foreground".to_owned(),
            format!("--key-file={}", path("munge.key")),
            format!("--socket={}", path("munge.socket")),
            format!("--pid-file={}", path("munged.pid")),
            format!("--seed-file={}", path("munge.seed")),
            "--num-threads=2".to_owned(),
        ];
        let munged = daemon(&cluster.dir, "munged", &["setpriv", "--pdeathsig", "KILL", "munged"], &munged);
        let controller = daemon(&cluster.dir, "slurmctld", &["setpriv", "--pdeathsig", "KILL", "slurmctld", "-D"], &[]);
        let nodes = ["n1", "n2"].map(|node| {
            let script = format!(
                "mount -t tmpfs -o mode=1777 none /tmp && \
                 exec unshare --map-user={} --map-group={} setpriv --pdeathsig KILL slurmd -D -N {node}",
                id("-u"),
                id("-g")
            );
            let words = ["unshare", "-r", "-m", "--propagation", "private", "sh", "-c"];
            daemon(&cluster.dir, node, &words, &[script])
        });
        cluster.daemons = nodes.into_iter().chain([controller, munged]).collect();
        let is_running = |daemons: &mut Vec<Child>| daemons.iter_mut().all(|child| child.try_wait().unwrap().is_none());
        for _ in 0..2400 {
            if !is_running(&mut cluster.daemons) {
                return None;
            }
            if cluster.says(&["sinfo", "-h", "-o", "%t %D"]) == "idle 2\n" {
                return Some(cluster);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the nodes of Slurm don't become idle");
    }

    /// One of Slurm's commands, in the site's environment.
    pub fn run(&self, site: &Site, program: &str) -> Run {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", site.path("bin").display());
        let run = site.program(program).env("SLURM_CONF", self.dir.join("slurm.conf")).env("PATH", path);
        run.env("CH_IMAGE_STORAGE", site.storage())
    }

    /// What one of Slurm's commands prints.
    pub fn says(&self, words: &[&str]) -> String {
        let mut command = Command::new(find(words[0]).unwrap());
        let output = command.args(&words[1..]).env("SLURM_CONF", self.dir.join("slurm.conf")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Until a job is in this state (`scontrol`'s word), which stays known for minutes after its end.
    #[track_caller]
    pub fn wait_for_state(&self, job: &str, state: &str) {
        let field = format!("JobState={state} ");
        wait_for(&format!("job {job} to be {state}"), || self.says(&["scontrol", "show", "job", job]).contains(&field));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.says(&["scancel", "--user", &id("-u")]);
        if !std::thread::panicking() {
            wait_for("the end of all jobs", || self.says(&["squeue", "-h"]).is_empty());
        }
        for child in &mut self.daemons {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["slurmctld", "n1", "n2", "munged"] {
                let log = fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
                super::skip::say(&format!("{name}: {log}"));
            }
        }
    }
}

fn id(option: &str) -> String {
    let output = Command::new("id").arg(option).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The kernel ends it with the test, even if the test is killed.
fn daemon(dir: &Path, name: &str, words: &[&str], more: &[String]) -> Child {
    let log = fs::File::create(dir.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(find(words[0]).unwrap());
    command.args(&words[1..]).args(more).env("SLURM_CONF", dir.join("slurm.conf"));
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn configuration(dir: &Path) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim().split('.').next().unwrap().to_owned();
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [controller, n1, n2] = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    let (dir, user) = (dir.display(), user.trim());
    format!(
        "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={controller}\n\
         SlurmUser={user}\nSlurmdUser={user}\n\
         AuthType=auth/munge\nAuthInfo=socket={dir}/munge.socket\nCredType=cred/munge\n\
         StateSaveLocation={dir}/state\nSlurmdSpoolDir={dir}/%n\n\
         SlurmctldPidFile={dir}/slurmctld.pid\nSlurmdPidFile={dir}/slurmd-%n.pid\n\
         ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
         SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nSlurmdParameters=config_overrides\n\
         MpiDefault=none\nReturnToService=2\nSwitchType=switch/none\nKillWait=2\n\
         NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=4 RealMemory=2000 State=UNKNOWN\n\
         NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=4 RealMemory=2000 State=UNKNOWN\n\
         PartitionName=p Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES\n"
    )
}

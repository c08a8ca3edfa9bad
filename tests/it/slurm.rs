//! Jobs of a real Slurm on two nodes, and MPI's own launchers: does `srun ch-run IMAGE -- COMMAND` work without options?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::ch_run::forms;
use crate::harness::cluster::Cluster;
use crate::harness::{Run, Site, image, wait_for};
use crate::{needs, needs_slurm};

/// An image with this machine's MPICH and Open MPI, and `ranks.c` compiled for each.
fn mpi_image() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = crate::harness::site::scratch();
        let programs = ["mpich", "openmpi"].map(|mpi| {
            let program = dir.join(format!("{}-ranks-{mpi}", std::process::id()));
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ranks.c");
            let made = Command::new(format!("mpicc.{mpi}")).arg("-o").arg(&program).arg(source).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            program
        });
        let made = image::make("mpi.tar", |image| {
            image.small();
            for (program, mpi) in programs.iter().zip(["mpich", "openmpi"]) {
                image.copy_with_libraries(program, &format!("usr/bin/ranks-{mpi}"));
            }
            let lib = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
            for plugins in ["ucx", "openmpi/lib/openmpi3", "pmix2/lib/pmix", "pmix2/lib"] {
                image.copy_files(&Path::new(&lib).join(plugins));
            }
            for data in ["/usr/share/openmpi", "/etc/openmpi"] {
                image.copy_files(Path::new(data));
            }
        });
        programs.iter().for_each(|program| fs::remove_file(program).unwrap());
        made
    })
}

/// What Open MPI needs that has two nodes on one machine.
fn settings(run: Run, nodes: usize) -> Run {
    let run = run.limit(Duration::from_secs(120));
    let run =
        run.env("OMPI_MCA_btl", "vader,self,tcp").env("OMPI_MCA_pml", "ob1").env("OMPI_MCA_btl_tcp_if_include", "lo");
    if nodes == 1 { run } else { run.env("OMPI_MCA_osc", "pt2pt") }
}

/// Ring, all-reduce, one-sided copies, and copies of our own from each other rank of the node, without any option.
#[test]
fn mpi_programs() {
    needs_slurm!();
    needs!("mpicc.mpich", "mpicc.openmpi", "mpirun.openmpi", "mpiexec.hydra");
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    site.import(mpi_image(), "mpi");
    let cluster = Cluster::start(&site);
    for image in forms(&site, "mpi") {
        // UCX, and so MPICH, takes two nodes on one machine for one. Slurm puts three of four ranks on the first node.
        for (mpi, program, nodes, copies) in
            [("pmi2", "ranks-mpich", 1, 12), ("pmix", "ranks-openmpi", 1, 12), ("pmix", "ranks-openmpi", 2, 6)]
        {
            let srun = settings(cluster.run(&site, "srun"), nodes);
            let srun = srun.args([format!("-N{nodes}"), "-n4".into(), format!("--mpi={mpi}")]);
            let run = srun.arg("ch-run").arg(&image).args(["--", program]);
            run.stdout(&format!("ranks 4 ring 4 sum 10 get 4 copies {copies} spaces {nodes}\n")).success();
        }
        // By its path: mpirun looks for programs beside itself first.
        for (launcher, options, program) in [
            ("mpiexec.hydra", &["-n", "4"][..], "ranks-mpich"),
            ("mpirun.openmpi", &["--oversubscribe", "-n", "4"], "ranks-openmpi"),
        ] {
            let run = settings(cluster.run(&site, launcher), 1)
                .args(options)
                .arg(site.path("bin/ch-run"))
                .arg(&image)
                .args(["--", program]);
            run.stdout("ranks 4 ring 4 sum 10 get 4 copies 12 spaces 1\n").success();
        }
    }
}

/// Exit codes, signals and output are what srun expects of a program that it has started itself.
#[test]
fn ends_of_steps() {
    needs_slurm!();
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    site.import(image::small(), "base");
    let cluster = Cluster::start(&site);
    for image in forms(&site, "base") {
        let srun = |options: &[&str], words: &[&str]| {
            let run = cluster.run(&site, "srun").limit(Duration::from_secs(120)).arg("-Q").args(options);
            run.arg("ch-run").arg(&image).arg("--").args(words)
        };
        let four = ["-N2", "-n4"];
        srun(&four, &["echo", "x"]).stdout("x\nx\nx\nx\n").stderr("").success();
        srun(&["-n1"], &["sh", "-c", "exit 3"]).code(3);
        srun(&["-n1"], &["sh", "-c", "kill -9 $$"]).stderr_has("Killed").code(137);
        srun(&["-n1"], &["/none"]).stderr_has("error: can't execve(2): /none: ").code(127);
        srun(&["-n1"], &["/etc"]).code(126);
        // A rank that dies takes the others with it, if srun is told so.
        let script = "test $SLURM_PROCID != 1 || exit 5; until test -e /never; do sleep 0.05; done";
        let done = srun(&["-K", "-N2", "-n4"], &["sh", "-c", script]).finish();
        assert!(!done.status.success() && done.stderr.contains("Exited with exit code 5"), "{}", done.stderr);
        crate::packed_runs::assert_no_server(&site.path("form.sqfs"));
    }
    cluster.run(&site, "srun").args(["-Q", "-n1", "ch-run", "none", "--", "true"]).stderr_has("none").code(125);
}

/// Batch jobs: arrays, copied images, two jobs of one user at once, signals, a job that is cancelled.
#[test]
fn batch_jobs() {
    needs_slurm!();
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    let packed = crate::packed_runs::packed(&site, image::small(), &[]);
    site.build("other", "FROM base\nRUN echo other >/name\n").success();
    let cluster = Cluster::start(&site);
    let submit = |options: &[&str], script: &str| {
        let script = site.write("job.sh", &format!("#!/bin/sh\n{script}\n"));
        let run = cluster.run(&site, "sbatch").args(["--parsable", "-o", "job-%j", "--open-mode=append"]);
        run.args(options).arg(script).success().stdout.trim().to_owned()
    };
    let output = |job: &str| fs::read_to_string(site.path(&format!("job-{job}"))).unwrap_or_default();

    // Both nodes get the image on a disk of their own. (sbcast does the same, but wants a slurmd of root's.)
    let script = format!(
        "srun -n2 --ntasks-per-node=1 cp {} /tmp/image.sqfs && srun -n4 ch-run /tmp/image.sqfs -- sh -c 'test ! -e /name && echo $SLURM_NODEID' | sort",
        packed.display()
    );
    let job = submit(&["-N2", "-n4"], &script);
    cluster.wait_for_state(&job, "COMPLETED");
    assert_eq!(output(&job), "0\n0\n0\n1\n");

    let job =
        submit(&["--array=1-3", "-n1", "-o", "array-%a"], "srun ch-run base -- sh -c 'echo $SLURM_ARRAY_TASK_ID'");
    for task in ["1", "2", "3"] {
        cluster.wait_for_state(&format!("{job}_{task}"), "COMPLETED");
        assert_eq!(fs::read_to_string(site.path(&format!("array-{task}"))).unwrap(), format!("{task}\n"));
    }

    // Two jobs on one node at once: each has its own image, though their steps have the same number.
    let wait =
        "cd; : >begun-$SLURM_JOB_ID; until test -e end; do sleep 0.05; done; test -e /name && echo other || echo base";
    let one = |image: &str| submit(&["-w", "n1", "-n1"], &format!("srun ch-run {image} -- sh -c '{wait}'"));
    let jobs = [one("base"), one("other")];
    for job in &jobs {
        wait_for("both jobs", || site.path(&format!("home/begun-{job}")).exists());
    }
    site.write("home/end", "");
    jobs.iter().for_each(|job| cluster.wait_for_state(job, "COMPLETED"));
    assert_eq!([output(&jobs[0]), output(&jobs[1])], ["base\n", "other\n"]);

    // A signal reaches the command, which ends as it likes; one that is cancelled leaves nothing behind.
    let script = "trap \"echo caught; exit 0\" USR1; cd; : >ready-$SLURM_JOB_ID; while :; do sleep 0.05; done";
    let waiting = || submit(&["-n1"], &format!("srun ch-run {} -- sh -c '{script}'", packed.display()));
    let jobs = [waiting(), waiting()];
    for job in &jobs {
        wait_for("the command", || site.path(&format!("home/ready-{job}")).exists());
    }
    cluster.run(&site, "scancel").args(["--signal=USR1", &format!("{}.0", jobs[0])]).success();
    cluster.wait_for_state(&jobs[0], "COMPLETED");
    // The shell also says what became of its sleep.
    assert!(output(&jobs[0]).lines().any(|line| line == "caught"), "{}", output(&jobs[0]));
    cluster.run(&site, "scancel").arg(&jobs[1]).success();
    cluster.wait_for_state(&jobs[1], "CANCELLED");
    crate::packed_runs::assert_no_server(&packed);
}

//! What launchers and batch systems hand to a command gets into the container: directories, descriptors, variables.

use std::fs;

use crate::ch_run::forms;
use crate::harness::site::in_tmp;
use crate::harness::{image, in_each_mode};

/// `$TMPDIR` is the host's own directory at the same path, or unset: mktemp(1) works in any case.
#[test]
fn temporary_directories() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("full", &format!("FROM base\nRUN mkdir -p {0} && echo >{0}/x\n", site.path("job").display()))
            .success();
        let job = site.path("job");
        fs::create_dir(&job).unwrap();
        let below_tmp = in_tmp("ch-launcher");
        fs::create_dir(&below_tmp).unwrap();
        let script = "echo ${TMPDIR-unset}; echo here >${TMPDIR:-/tmp}/mine && cat ${TMPDIR:-/tmp}/mine && rm ${TMPDIR:-/tmp}/mine";
        let check = |options: &[&str], image: &str, dir: &str, want: &str| {
            let run = site.ch_run_with(options, image).args(["sh", "-c", script]).env("TMPDIR", dir);
            run.stdout(&format!("{want}\nhere\n")).stderr("").success();
        };
        let (job, below_tmp) = (job.to_str().unwrap(), below_tmp.to_str().unwrap());
        for image in forms(site, "base") {
            let image = image.to_str().unwrap();
            check(&[], image, job, "SITE/job");
            check(&["-t"], image, job, "SITE/job");
            check(&["-W"], image, job, "SITE/job");
            check(&["--join"], image, job, "SITE/job");
            check(&[], image, "/var/tmp", "/var/tmp");
            check(&[], image, below_tmp, below_tmp);
            check(&["-t"], image, below_tmp, "unset");
            check(&[], image, "/nowhere", "unset");
            check(&[], image, "job", "unset");
            let own = format!("--set-env=TMPDIR={below_tmp}");
            check(&[&own], image, "/nowhere", below_tmp);
        }
        // It would hide something of the image, or stay in it.
        check(&[], "full", job, "unset");
        check(&["-w"], "base", job, "unset");
        site.ch_run("base").args(["test", "-e", job]).env("TMPDIR", "/tmp").code(1);
        fs::remove_dir(below_tmp).unwrap();
    });
}

/// What PMI and PMIx need: an inherited socket, the server's directory, the variables, shared memory.
#[test]
fn what_process_managers_hand_over() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let server = site.path("spool/pmix.1.0");
        fs::create_dir_all(&server).unwrap();
        fs::write(server.join("contact"), "tcp4\n").unwrap();
        fs::write(site.path("wire"), "cmd=init\n").unwrap();
        for image in forms(site, "base") {
            for options in ["", "--join", "-t", "-W", "--env=clean"] {
                let inner = "cat <&7; cat $PMIX_SERVER_TMPDIR/contact; echo $PMI_FD $PMI_RANK $PMIX_RANK $SLURM_PROCID; test -w /dev/shm";
                let script = format!("exec 7<wire; exec ch-run {options} {} -- sh -c '{inner}'", image.display());
                let run = site.program("sh").args(["-c", &script]).env("CH_IMAGE_STORAGE", site.storage());
                let run = run.env("PATH", format!("{}:/usr/bin:/bin", site.path("bin").display()));
                let run = run.env("PMI_FD", "7").env("PMI_RANK", "3").env("PMIX_RANK", "3").env("SLURM_PROCID", "3");
                let run = run.env("PMIX_SERVER_TMPDIR", &server);
                run.stdout("cmd=init\ntcp4\n7 3 3 3\n").stderr("").success();
            }
        }
        // The directories of steps don't pile up in an image that is written to.
        let run = site.ch_run_with(&["-w"], "base").args(["sh", "-c", "test ! -e $PMIX_SERVER_TMPDIR"]);
        run.env("PMIX_SERVER_TMPDIR", &server).stderr("").success();
    });
}

//! Does a container get the devices of the host that were asked for, and nothing else?

use std::fs;
use std::path::Path;

use crate::harness::{Site, Tree, image, in_each_mode};

/// A CDI file of three devices in the shape that nvidia-ctk 1.17 writes, whose files are the site's.
fn cdi(site: &Site) -> String {
    let host = site.path("driver").display().to_string();
    site.write("driver/bin/nvidia-smi", "#!/bin/sh\necho smi\n");
    fs::set_permissions(site.path("driver/bin/nvidia-smi"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    site.write("driver/lib/libcuda.so.550.54.14", "driver\n");
    let gpu = |n: usize| {
        format!(
            "- containerEdits:\n    deviceNodes:\n    - hostPath: /dev/zero\n      path: /opt/nvidia{n}\n    hooks:\n    - args:\n      - nvidia-cdi-hook\n      - chmod\n      - --mode\n      - \"755\"\n      - --path\n      - /dev/dri\n      hookName: createContainer\n      path: /usr/bin/nvidia-cdi-hook\n  name: \"{n}\"\n"
        )
    };
    let text = format!(
        "---\ncdiVersion: 0.5.0\ncontainerEdits:\n  deviceNodes:\n  - path: /dev/null\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n  hooks:\n  - args:\n    - nvidia-cdi-hook\n    - update-ldcache\n    - --folder\n    - /usr/lib/x86_64-linux-gnu\n    hookName: createContainer\n    path: /usr/bin/nvidia-cdi-hook\n  mounts:\n  - containerPath: /usr/bin/nvidia-smi\n    hostPath: {host}/bin/nvidia-smi\n    options:\n    - ro\n    - nosuid\n    - nodev\n    - bind\n  - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14\n    hostPath: {host}/lib/libcuda.so.550.54.14\n    options:\n    - ro\n    - nosuid\n    - nodev\n    - bind\ndevices:\n{}{}- containerEdits:\n    deviceNodes:\n    - hostPath: /dev/zero\n      path: /opt/nvidia0\n    - hostPath: /dev/zero\n      path: /opt/nvidia1\n  name: all\nkind: nvidia.com/gpu\n",
        gpu(0),
        gpu(1)
    );
    site.write("cdi/nvidia.yaml", &text);
    site.path("cdi").display().to_string()
}

/// A directory of the image.
fn unpacked(site: &Site) -> String {
    let dir = site.path("dir");
    fs::create_dir_all(&dir).unwrap();
    site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
    dir.to_str().unwrap().to_owned()
}

#[test]
fn what_a_cdi_file_says_is_done_in_every_form_of_image() {
    in_each_mode(|site| {
        let dirs = cdi(site);
        site.import(image::small(), "base");
        let dir = unpacked(site);
        let packed = site.path("base.sqfs").display().to_string();
        site.run("export").args(["base", &packed]).success();
        let before = Tree::of_dir(Path::new(&dir));
        let script = "echo $NVIDIA_VISIBLE_DEVICES; nvidia-smi; cat /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14; \
                      for n in 0 1; do test -c /opt/nvidia$n && echo $n; done; \
                      echo x 2>/dev/null >/usr/bin/nvidia-smi || echo read-only";
        for image in ["base", &dir, &packed] {
            let check = |options: &[&str], stdout: &str| {
                let run = site.ch_run_with(options, image).env("CH_RUN_CDI_DIRS", &dirs);
                run.args(["sh", "-c", script]).stdout(stdout).stderr("").success();
            };
            check(&["--device", "nvidia.com/gpu=0"], "void\nsmi\ndriver\n0\nread-only\n");
            check(&["--device=nvidia.com/gpu=0", "--device=nvidia.com/gpu=1"], "void\nsmi\ndriver\n0\n1\nread-only\n");
            check(&["--device", "nvidia.com/gpu"], "void\nsmi\ndriver\n0\n1\nread-only\n");
            check(&["-d"], "void\nsmi\ndriver\n0\n1\nread-only\n");
            check(&["-d", "--set-env=NVIDIA_VISIBLE_DEVICES=1"], "1\nsmi\ndriver\n0\n1\nread-only\n");
            check(&["-W", "--device", "nvidia.com/gpu=1"], "void\nsmi\ndriver\n1\nread-only\n");
        }
        let said = "devices: nvidia.com/gpu=0: 2 device nodes, 2 files and directories, 1 variables\n";
        let options = ["-v", "--cdi-dirs", &dirs, "--device", "nvidia.com/gpu=0"];
        site.ch_run_with(&options, "base").arg("true").stderr_has(said).success();
        site.ch_run("base").args(["sh", "-c", "command -v nvidia-smi || echo none"]).stdout("none\n").success();
        Tree::of_dir(Path::new(&dir)).assert_same(&before, "the directory afterwards");
        let smi = fs::read_to_string(site.path("driver/bin/nvidia-smi")).unwrap();
        assert_eq!(smi, "#!/bin/sh\necho smi\n", "the host's file");
    });
}

#[test]
fn what_is_missing_is_told_with_what_there_is() {
    let site = Site::new();
    let dirs = cdi(&site);
    site.import(image::small(), "base");
    let run = |options: &[&str]| site.ch_run_with(options, "base").arg("true");
    let with = |options: &[&str]| run(options).env("CH_RUN_CDI_DIRS", &dirs);
    with(&["--device", "nvidia.com/gpu=7"])
        .stderr("error: no such device: nvidia.com/gpu=7\nhint: there are nvidia.com/gpu=0 nvidia.com/gpu=1 nvidia.com/gpu=all\n")
        .code(125);
    with(&["--device", "/dev/nvidia0"])
        .stderr("error: --device: not KIND or KIND=NAME: /dev/nvidia0\nhint: see: ch-run --help\n")
        .code(125);
    run(&["--cdi-dirs", "/nonexistent", "-d"])
        .stderr("error: can't read CDI directory /nonexistent: No such file or directory\n")
        .code(125);
    let empty = site.path("home").display().to_string();
    run(&["--cdi-dirs", &empty, "-d"])
        .stderr("warning: --devices: no CDI file in SITE/home names any device\n")
        .success();
    site.write("cdi/other.yaml", "cdiVersion: 0.5.0\nkind: a.com/nic\ndevices: [x]\n");
    with(&["--device", "nvidia.com/gpu=0"]).stderr("").success();
    with(&["--device", "a.com/nic=0"])
        .stderr(
            "error: no such device: a.com/nic=0\nhint: SITE/cdi/other.yaml can't be read: line 3: a flow collection ({}, []) in YAML: \
             not supported; there are nvidia.com/gpu=0 nvidia.com/gpu=1 nvidia.com/gpu=all\n",
        )
        .code(125);
    let hooks = r#"{"cdiVersion": "0.5.0", "kind": "a.com/nic", "devices": [{"name": "0", "containerEdits": {
        "deviceNodes": [{"path": "/dev/nic-that-is-not-there"}], "netDevices": [{"hostInterfaceName": "x"}],
        "hooks": [{"hookName": "createContainer", "path": "/bin/nic-hook", "args": ["nic-hook", "up"]}]}}]}"#;
    fs::remove_file(site.path("cdi/other.yaml")).unwrap();
    site.write("cdi/other.json", hooks);
    with(&["--device", "a.com/nic=0"])
        .stderr(
            "warning: devices: this machine has no /dev/nic-that-is-not-there\n\
             warning: devices: hooks are not run: /bin/nic-hook up\n\
             warning: devices: can't be done without privilege: netDevices\n",
        )
        .success();
    let doctor = site.run("doctor").env("CH_RUN_CDI_DIRS", &dirs);
    doctor
        .stdout_has(
            "good     devices: SITE/cdi/nvidia.yaml: nvidia.com/gpu=0,1,all; SITE/cdi/other.json: a.com/nic=0\n",
        )
        .finish();
    fs::remove_file(site.path("driver/lib/libcuda.so.550.54.14")).unwrap();
    with(&["-d"])
        .stderr_has("error: can't use nvidia.com/gpu=all, a.com/nic=0: SITE/driver/lib/libcuda.so.550.54.14 does not exist\nhint: ")
        .code(125);
}

/// Whatever a CDI file says: what lies outside of the container stays as it is.
#[test]
fn hostile_files_reach_nothing_outside() {
    let site = Site::new();
    site.import(image::small(), "base");
    let out = site.path("outside").display().to_string();
    site.write("outside/file", "mine\n");
    site.write("source", "theirs\n");
    let source = site.path("source").display().to_string();
    let dir = unpacked(&site);
    std::os::unix::fs::symlink(&out, site.path("dir/usr/link")).unwrap();
    std::os::unix::fs::symlink("../../../../../..", site.path("dir/usr/up")).unwrap();
    let before = Tree::of_dir(&site.path("outside"));
    let targets = [
        format!("{out}/new"),
        format!("/../../..{out}/new"),
        "/usr/link/new".to_owned(),
        format!("/usr/up{out}/new"),
        "/tmp/../tmp/ch-run-devices-test/new".to_owned(),
        "/home/tester/new".to_owned(),
        "/proc/self/new".to_owned(),
        "/".to_owned(),
        "/dev/new".to_owned(),
        "/sys/new".to_owned(),
        format!("/{}x", "a/".repeat(3000)),
    ];
    for target in targets {
        let json = serde_json::json!({"cdiVersion": "0.5.0", "kind": "a.com/b", "devices": [{"name": "x",
            "containerEdits": {"mounts": [{"hostPath": source, "containerPath": target}],
                "hooks": [{"path": "/bin/touch", "args": ["touch", format!("{out}/touched")]}]}}]});
        site.write("cdi/a.json", &json.to_string());
        for image in ["base", &dir] {
            let run = site.ch_run_with(&["--cdi-dirs", "./cdi", "-d"], image);
            run.args(["sh", "-c", "true"]).finish();
        }
        Tree::of_dir(&site.path("outside")).assert_same(&before, &target);
        assert!(!site.path("home/new").exists(), "{target}");
        assert!(!Path::new("/tmp/ch-run-devices-test").exists(), "{target}");
    }
    let huge = format!("cdiVersion: 0.5.0\nkind: a.com/b\n{}", "#\n".repeat(5 << 20));
    fs::remove_file(site.path("cdi/a.json")).unwrap();
    site.write("cdi/a.yaml", &huge);
    let run = site.ch_run_with(&["--cdi-dirs", "./cdi", "--device", "a.com/b"], "base");
    run.arg("true").stderr_has("./cdi/a.yaml can't be read: larger than 8 MiB").code(125);
}

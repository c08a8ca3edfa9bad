//! Do programs of an image find the host's libraries, and are those left out that they can't load? On drivers made of stubs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Site, image};
use crate::{needs, skip};

/// Compiles for this machine; the site's `driver/lib` has what is made.
fn compile(site: &Site, name: &str, source: &str, options: &[&str]) -> PathBuf {
    fs::create_dir_all(site.path("driver/lib")).unwrap();
    let (source, output) = (site.write(&format!("{name}.c"), source), site.path("driver/lib").join(name));
    site.program("gcc").arg("-o").arg(&output).arg(source).args(options).success();
    output
}

/// A library that says a number.
fn library(site: &Site, file: &str, soname: &str, function: &str, number: u32) -> PathBuf {
    let source = format!("int {function}(void) {{ return {number}; }}\n");
    compile(site, file, &source, &["-shared", "-fPIC", &format!("-Wl,-soname,{soname}")])
}

/// A library that needs a C library which nobody has.
fn too_new(site: &Site, file: &str, soname: &str) -> PathBuf {
    let map = site.write("map", "GLIBC_2.99 { global: of_the_future; };\n").display().to_string();
    let options = ["-shared", "-nostdlib", "-Wl,-soname,libc.so.6", &format!("-Wl,--version-script={map}")];
    let future = compile(site, "future.so", "int of_the_future(void) { return 1; }\n", &options);
    let source = "int of_the_future(void);\nint f(void) { return of_the_future(); }\n";
    let options = ["-shared", "-nostdlib", "-fPIC", future.to_str().unwrap(), &format!("-Wl,-soname,{soname}")];
    let made = compile(site, file, source, &options);
    fs::remove_file(future).unwrap();
    made
}

/// What a program would do that uses a GPU: opens a library by its name and asks for a number.
fn program(site: &Site) -> PathBuf {
    let source = "#include <dlfcn.h>\n#include <stdio.h>\nint main(int argc, char **argv) {\n\
        void *library = dlopen(argv[1], RTLD_NOW);\n\
        if (!library) { printf(\"%s\\n\", dlerror()); return 3; }\n\
        int (*ask)(void) = (int (*)(void)) dlsym(library, argv[2]);\n\
        printf(\"%d\\n\", ask ? ask() : -1);\nreturn argc < 0; }\n";
    compile(site, "ask", source, &["-ldl"])
}

const LIB: &str = "/usr/lib/x86_64-linux-gnu";

/// A CDI file in the shape that nvidia-ctk 1.18 writes: all files of `driver/lib` that `names` lists, at Debian's place.
fn cdi(site: &Site, names: &[&str]) -> String {
    let hook = |args: &[&str]| {
        let args: String = args.iter().map(|arg| format!("        - {arg}\n")).collect();
        format!(
            "    - args:\n        - nvidia-cdi-hook\n{args}      env:\n        - NVIDIA_CTK_DEBUG=false\n      hookName: createContainer\n      path: /usr/bin/nvidia-cdi-hook\n"
        )
    };
    let mounts: String = names
        .iter()
        .map(|name| {
            let host = site.path("driver/lib").join(name).display().to_string();
            format!(
                "    - containerPath: {LIB}/{name}\n      hostPath: {host}\n      options:\n        - ro\n        - nosuid\n        - nodev\n        - rbind\n        - rprivate\n"
            )
        })
        .collect();
    let text = format!(
        "---\ncdiVersion: 0.7.0\ncontainerEdits:\n  additionalGids:\n    - 44\n  deviceNodes:\n    - gid: 44\n      path: /dev/null\n  env:\n    - NVIDIA_CTK_LIBCUDA_DIR={LIB}\n    - NVIDIA_VISIBLE_DEVICES=void\n  hooks:\n{}{}{}{}  mounts:\n{mounts}devices:\n  - containerEdits:\n      deviceNodes:\n        - path: /dev/zero\n    name: all\nkind: nvidia.com/gpu\n",
        hook(&["create-symlinks", "--link", &format!("libcuda.so.1::{LIB}/libcuda.so")]),
        hook(&["enable-cuda-compat", "--host-driver-version=550.54.14"]),
        hook(&["update-ldcache", "--folder", LIB]),
        hook(&["disable-device-node-modification"]),
    );
    site.write("cdi/nvidia.yaml", &text);
    site.path("cdi").display().to_string()
}

/// The part of a real image that programs need to run.
fn unpacked(site: &Site, debian: &Path) -> String {
    let dir = site.path("dir");
    fs::create_dir(&dir).unwrap();
    let rest = ["usr/share", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/perl*", "var/*", "dev/*"];
    let rest = rest.iter().flat_map(|path| [format!("--exclude={path}"), format!("--exclude=./{path}")]);
    site.program("tar").args(rest).arg("-C").arg(&dir).arg("-xpf").arg(debian).success();
    dir.display().to_string()
}

/// The paths of this test are those of one processor.
macro_rules! needs_stubs {
    () => {
        needs!("gcc", "ld");
        if !cfg!(target_arch = "x86_64") {
            skip!("the paths are those of x86-64");
        }
    };
}

#[test]
fn programs_of_a_real_image_load_the_driver() {
    needs_stubs!();
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = Site::new();
    let driver = "libcuda.so.550.54.14";
    library(&site, driver, "libcuda.so.1", "cuDriverGetVersion", 12040);
    library(&site, "libnvidia-ml.so.550.54.14", "libnvidia-ml.so.1", "nvmlVersion", 550);
    let ask = format!("{}:/mnt/0", program(&site).parent().unwrap().display());
    let dirs = cdi(&site, &[driver, "libnvidia-ml.so.550.54.14"]);
    let dir = unpacked(&site, &debian);
    site.import(Path::new(&dir), "debian");
    let packed = site.path("debian.sqfs").display().to_string();
    site.run("export").args(["--compress=none", "debian", &packed]).success();
    // As the leanest images: no cache, no ldconfig.
    fs::remove_file(site.path("dir/etc/ld.so.cache")).unwrap();
    fs::remove_file(site.path("dir/sbin/ldconfig")).unwrap();
    for image in ["debian", &dir, &packed] {
        let run = |options: &[&str], command: &[&str]| {
            let run = site.ch_run_with(&[&["--cdi-dirs", &dirs, "-d", "-b", &ask], options].concat(), image);
            run.args(command).stderr("")
        };
        run(&[], &["/mnt/0/ask", "libcuda.so.1", "cuDriverGetVersion"]).stdout("12040\n").success();
        run(&[], &["/mnt/0/ask", &format!("{LIB}/libcuda.so"), "cuDriverGetVersion"]).stdout("12040\n").success();
        run(&["-W"], &["/mnt/0/ask", "libnvidia-ml.so.1", "nvmlVersion"]).stdout("550\n").success();
        run(&["-u0"], &["sh", "-c", "echo $NVIDIA_CTK_LIBCUDA_DIR"]).stdout(&format!("{LIB}\n")).success();
        // The image's own libraries are found as before.
        let own = ["/mnt/0/ask", "libapt-pkg.so.6.0", "nothing"];
        run(&[], &own).stdout("-1\n").success();
        let without = site.ch_run_with(&["-b", &ask], image);
        without.args(["/mnt/0/ask", "libcuda.so.1", "f"]).stdout_has("libcuda.so.1: cannot open").code(3);
    }
    let all = site.ch_run_with(&["--cdi-dirs", &dirs, "-d"], "debian").args(["/sbin/ldconfig", "-p"]);
    let list = all.stderr("").success().stdout;
    assert!(list.contains(&format!("\tlibcuda.so.1 (libc6,x86-64) => {LIB}/{driver}\n")), "{list}");
    assert!(list.contains("\tlibc.so.6 (libc6,x86-64"), "{list}");
    assert!(!Path::new(&dir).join("usr/lib/x86_64-linux-gnu/libcuda.so.1").exists(), "made in the image");
    // An image that brings libraries of a newer driver.
    let compat = site.path("dir/usr/local/cuda/compat");
    fs::create_dir_all(&compat).unwrap();
    fs::rename(library(&site, "new.so", "libcuda.so.1", "cuDriverGetVersion", 13000), compat.join("libcuda.so.570.1"))
        .unwrap();
    let run = site.ch_run_with(&["--cdi-dirs", &dirs, "-d", "-b", &ask], &dir);
    run.args(["/mnt/0/ask", "libcuda.so.1", "cuDriverGetVersion"]).stdout("13000\n").stderr("").success();
}

/// Without CDI files: by what the host's dynamic loader knows. (In a namespace of the test, where that is another cache.)
#[test]
fn a_driver_is_found_by_its_names() {
    needs_stubs!();
    needs!("unshare", "ldconfig");
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = Site::new();
    library(&site, "libcuda.so.550.54.14", "libcuda.so.1", "cuDriverGetVersion", 12040);
    library(&site, "libnvidia-ml.so.550.54.14", "libnvidia-ml.so.1", "nvmlVersion", 550);
    library(&site, "libcudart.so.12", "libcudart.so.12", "not_of_the_driver", 1);
    let ask = program(&site).display().to_string();
    let host = site.path("driver/lib");
    for name in ["libcuda.so", "libnvidia-ml.so"] {
        std::os::unix::fs::symlink(format!("{name}.550.54.14"), host.join(format!("{name}.1"))).unwrap();
    }
    let conf = site.write("ld.so.conf", &format!("{}\n", host.display()));
    let cache = site.path("ld.so.cache").display().to_string();
    site.program("ldconfig").args(["-X", "-C", &cache, "-f"]).arg(&conf).finish();
    let dir = unpacked(&site, &debian);
    let empty = site.path("home").display().to_string();
    let run = |host_cache: &str, command: &str| {
        let script = format!(
            "mount --bind {host_cache} /etc/ld.so.cache && exec {} --cdi-dirs {empty} --gpu -b {ask}:/mnt/ask {dir} -- {command}",
            site.path("bin/ch-run").display()
        );
        site.program("unshare").args(["-rm", "sh", "-c", &script])
    };
    let warning = "warning: devices: this machine has no /dev/nvidiactl\n";
    let warning = if Path::new("/dev/nvidiactl").exists() { "" } else { warning };
    run(&cache, "/mnt/ask libcuda.so.1 cuDriverGetVersion").stdout("12040\n").stderr(warning).success();
    run(&cache, "/mnt/ask libnvidia-ml.so.1 nvmlVersion").stdout("550\n").stderr(warning).success();
    run(&cache, "/mnt/ask libcudart.so.12 not_of_the_driver").stdout_has("libcudart.so.12: cannot open").code(3);
    run(&cache, "ls /ch/gpu/lib").stdout("libcuda.so.1\nlibnvidia-ml.so.1\n").success();
    let none = site.write("empty.cache", "");
    let none = run(&none.display().to_string(), "true").success();
    let kfd = Path::new("/dev/kfd").exists();
    let said = "warning: --gpu: this machine has no driver of a GPU: no CDI file, no libcuda.so.1, no /dev/kfd\n";
    assert_eq!(none.stderr, if kfd { "" } else { said });
    // Where there are CDI files, they say it.
    let dirs = cdi(&site, &["libcuda.so.550.54.14"]);
    let run = site.ch_run_with(&["--cdi-dirs", &dirs, "--gpu"], &dir);
    run.args(["sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"]).stdout("void\n").stderr("").success();
}

#[test]
fn what_the_image_can_not_load_is_left_out() {
    needs_stubs!();
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = Site::new();
    let dir = unpacked(&site, &debian);
    let run = |dirs: &str| site.ch_run_with(&["--cdi-dirs", dirs, "-d"], &dir).args(["ls", LIB]);
    too_new(&site, "libnvidia-gtk3.so.550", "libnvidia-gtk3.so.550");
    too_new(&site, "libnvidia-x.so.1", "libnvidia-x.so.1");
    library(&site, "libnvidia-ml.so.550", "libnvidia-ml.so.1", "nvmlVersion", 550);
    let done = run(&cdi(&site, &["libnvidia-gtk3.so.550", "libnvidia-ml.so.550", "libnvidia-x.so.1"])).success();
    let newest = done.stderr.split("no more than ").nth(1).unwrap_or_default().split(' ').next().unwrap().to_owned();
    assert_eq!(
        done.stderr,
        format!(
            "warning: devices: left out: libnvidia-gtk3.so.550 needs GLIBC_2.99, and the image's C library has no more than {newest} (and 1 more)\n"
        )
    );
    assert!(newest.starts_with("GLIBC_2."), "{newest}");
    assert!(done.stdout.contains("\nlibnvidia-ml.so.1\n") && !done.stdout.contains("gtk3"), "{}", done.stdout);
    too_new(&site, "libcuda.so.550", "libcuda.so.1");
    run(&cdi(&site, &["libcuda.so.550"]))
        .stderr(&format!(
            "error: can't use nvidia.com/gpu=all in this image: libcuda.so.550 needs GLIBC_2.99, and the image's C library has no more than {newest}\n\
             hint: use an image of a newer distribution\n"
        ))
        .code(125);
}

#[test]
fn images_of_musl_get_a_path() {
    needs_stubs!();
    needs!("busybox");
    let site = Site::new();
    library(&site, "libcuda.so.550", "libcuda.so.1", "f", 1);
    let dirs = cdi(&site, &["libcuda.so.550"]);
    let dir = site.path("dir").display().to_string();
    fs::create_dir(&dir).unwrap();
    site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
    site.write("dir/lib/ld-musl-x86_64.so.1", "");
    let script = "echo $LD_LIBRARY_PATH; ls $LD_LIBRARY_PATH; ls /etc/ld.so.cache 2>/dev/null || echo no cache";
    let run = |options: &[&str]| {
        let run = site.ch_run_with(&[&["--cdi-dirs", &dirs, "-d"], options].concat(), &dir).args(["sh", "-c", script]);
        run.stderr_has("warning: devices: the image has musl")
    };
    let files = "libcuda.so\nlibcuda.so.1\nlibcuda.so.550\nno cache\n";
    run(&[]).stdout(&format!("{LIB}\n{files}")).success();
    let done = run(&["--set-env=LD_LIBRARY_PATH=/x"]).success();
    assert!(done.stdout.starts_with(&format!("{LIB}:/x\n")), "{}", done.stdout);
}

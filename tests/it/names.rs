//! Words of Docker that do something with images in storage: `tag`, `rename`, `inspect`, `history`, `save`, `load`, `run`,
//! `shell`.

use crate::harness::{Site, image, in_each_mode};

fn prepare(site: &Site) {
    site.import(image::small(), "small");
    site.build(
        "hello",
        "FROM small\nENV A=b\nRUN echo made >/made\nENTRYPOINT [\"/bin/echo\", \"said:\"]\nCMD [\"nothing\"]\n",
    )
    .success();
}

#[test]
fn images_get_other_names() {
    in_each_mode(|site| {
        prepare(site);
        site.run("tag").args(["hello", "me/hello:2"]).stdout("").stderr("also named: me/hello:2\n").success();
        site.run("rename").args(["hello", "hallo"]).stdout("").stderr("renamed: hello to hallo\n").success();
        let names = "hallo:latest\nme/hello:2\nsmall:latest\n";
        site.run("list").arg("-q").stdout(names).stderr("").success();
        for name in ["hallo", "me/hello:2"] {
            site.ch_run(name).args(["cat", "/made"]).stdout("made\n").success();
        }
        // What is written under one name is not seen under the other.
        site.ch_run_with(&["-w"], "hallo").args(["sh", "-c", "echo changed >/made"]).success();
        site.run("tag").args(["hallo", "third"]).success();
        site.ch_run_with(&["-w"], "hallo").args(["sh", "-c", "echo again >/made"]).success();
        site.ch_run("me/hello:2").args(["cat", "/made"]).stdout("made\n").success();
        site.ch_run("third").args(["cat", "/made"]).stdout("changed\n").success();
        site.run("fsck").success();
        let hint = "hint: did you mean hallo:latest? ch-image list shows what there is\n";
        site.run("tag").args(["halo", "x"]).stderr(&format!("error: halo image not found\n{hint}")).failure();
        site.run("tag").args(["hallo", "hallo:latest"]).stderr("error: the same name twice: hallo\n").usage();
    });
}

#[test]
fn images_are_inspected() {
    let site = Site::new();
    prepare(&site);
    let field = |field: &str| site.run("inspect").args(["--format", field, "hello"]).success().stdout;
    assert_eq!(field("name"), "hello:latest\n");
    assert_eq!(field("base"), "small:latest\n");
    assert_eq!(field("config.entrypoint"), "[\"/bin/echo\",\"said:\"]\n");
    assert!(field("{{.Config.Env}}").contains("\"A=b\""));
    site.run("inspect").args(["--format", "nix", "hello"]).stderr_has("error: --format: no field nix in it\n").usage();
    let whole: serde_json::Value =
        serde_json::from_str(&site.run("inspect").args(["--json", "hello"]).stderr("").success().stdout).unwrap();
    assert_eq!(whole["ownership"], "all root:root");
    let text = site.run("inspect").arg("hello").stderr("").success().stdout;
    assert!(
        text.starts_with("name:         hello:latest\narchitecture: amd64\nbase:         small:latest\n"),
        "{text}"
    );
    let history = site.run("history").arg("hello").stderr("").success().stdout;
    assert!(text.ends_with(&format!("layers, topmost first:\n{history}")), "{text}");
    assert!(history.lines().any(|line| line.contains("       5 B  RUN /bin/sh -c echo made >/made")), "{history}");
    assert_eq!(history.lines().count(), whole["layers"].as_array().unwrap().len());
}

#[test]
fn images_are_saved_and_loaded() {
    let site = Site::new();
    prepare(&site);
    site.run("save").args(["-q", "-o", "hello.tar", "hello"]).stdout("").stderr("").success();
    site.run("delete").arg("hello").success();
    site.run("load").args(["-q", "-i", "hello.tar"]).stdout("").stderr("").success();
    site.ch_run("hello").args(["cat", "/made"]).stdout("made\n").success();
    site.run("load").args(["hello.tar", "-q"]).arg("other").success();
    site.ch_run("other").args(["cat", "/made"]).stdout("made\n").success();
    // Several in one archive.
    site.build("second", "FROM other\nRUN echo second >/made\n").success();
    site.run("save").args(["-q", "-o", "both.tar", "hello", "second"]).stderr("").success();
    site.run("delete").args(["hello", "second", "other"]).success();
    site.run("load").args(["-q", "-i", "both.tar"]).stderr("").success();
    site.ch_run("hello").args(["cat", "/made"]).stdout("made\n").success();
    site.ch_run("second").args(["cat", "/made"]).stdout("second\n").success();
    site.run("export").args(["hello", "second", "oci:both"]).success();
    site.run("import").args(["oci:both:second:latest", "third"]).success();
    site.ch_run("third").args(["cat", "/made"]).stdout("second\n").success();
    site.run("export").args(["hello", "no", "docker-archive:x"]).stderr_has("can't export: no image no").failure();
    let one = "error: several images go into a Docker or OCI archive or layout alone\n";
    site.run("export").args(["hello", "second", "x.sqfs"]).stderr_has(one).usage();
    let named = "error: one name for several images: \"n\"\nhint: leave it out\n";
    site.run("export").args(["hello", "second", "docker-archive:x:n"]).stderr_has(named).usage();
    assert!(!site.path("x").exists() && !site.path("x.sqfs").exists());
    let missing = "error: no name of an image in SITE/files.tar\nhint: say one: ch-image import SITE/files.tar NAME\n";
    site.program("tar").args(["-cf", "files.tar", "home"]).success();
    site.run("load").arg(site.path("files.tar")).stderr(missing).failure();
}

#[test]
fn docker_run_as_fingers_know_it() {
    let site = Site::new();
    prepare(&site);
    site.write("data/file", "content\n");
    let run = |words: &[&str]| site.run("run").args(words);
    run(&["-it", "--rm", "hello"]).stdout("said: nothing\n").success();
    run(&["--rm", "hello", "x", "-y"]).stdout("said: x -y\n").success();
    run(&["--entrypoint", "cat", "-v", "./data:/mnt", "-w", "/mnt", "hello", "file"]).stdout("content\n").success();
    run(&["-e", "B=c", "--entrypoint", "sh", "hello", "-c", "echo $A $B"]).stdout("b c\n").success();
    run(&["--entrypoint", "sh", "hello", "-c", "echo x >/made && cat /made; exit 7"]).stdout("x\n").code(7);
    site.ch_run("hello").args(["cat", "/made"]).stdout("made\n").success();
    run(&["--privileged", "hello"]).stderr_has("error: unknown option: --privileged\n").usage();
    run(&["helo"]).stderr_has("did you mean hello:latest?").code(125);
    site.run("shell").arg("hello").stdin("echo in the image; cat /made\n").stdout("in the image\nmade\n").success();
}

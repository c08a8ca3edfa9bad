//! Does the program answer as the manual page and design say where no image is involved: exit codes, streams, help?

use crate::harness::{Site, image};

const SUBCOMMANDS: &[&str] = &["build", "delete", "export", "import", "list", "pull", "push", "reset", "storage-path"];

#[test]
fn answers_that_need_nothing() {
    let site = Site::new();
    let version = format!("{}\n", env!("CARGO_PKG_VERSION"));
    site.bare().arg("--version").stdout(&version).stderr("").success();
    site.bare().arg("--dependencies").stdout("").stderr("").success();
    for help in ["-h", "--help"] {
        let mut run = site.bare().arg(help).stderr("");
        for subcommand in SUBCOMMANDS {
            run = run.stdout_has(&format!("\n  {subcommand} "));
        }
        run.success();
        for subcommand in SUBCOMMANDS {
            site.run(subcommand).arg(help).stdout_has(&format!(" {subcommand} ")).stderr("").success();
        }
    }
    for subcommand in SUBCOMMANDS {
        let help = site.run(subcommand).arg("--help").success().stdout;
        assert_eq!(help.matches("\n  ch-image ").count(), 2, "two examples:\n{help}");
        site.run("help").arg(subcommand).stdout(&help).stderr("").success();
    }
    let general = site.bare().arg("--help").success().stdout;
    site.run("help").stdout(&general).stderr("").success();
    site.run("version").stdout(&version).stderr("").success();
    site.run("help").arg("nix").stderr_has("error: unknown subcommand: nix\n").usage();
    assert!(!site.storage().exists(), "help must not make a storage directory");
}

#[test]
fn wrong_usage() {
    let site = Site::new();
    let check = |words: &[&str], message: &str| {
        let done = site.bare().args(words).stdout("").stderr_has("error: ").stderr_has(message).usage();
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    };
    check(&["brew"], "brew");
    check(&["--nonsense"], "--nonsense");
    check(&["list", "--nonsense"], "--nonsense");
    check(&["list", "a", "b"], "b");
    check(&["pull"], "IMAGE_REF");
    check(&["import", "a"], "IMAGE_REF");
    check(&["build"], "CONTEXT");
    check(&["delete", "--tag=x", "y"], "--tag");
    check(&["--storage"], "--storage");
    check(&["build", "-t"], "-t");
    check(&["build", "--force", "seccomp", "."], "--force=seccomp");
    check(&["--no-cache=yes", "list"], "--no-cache");
    assert!(!site.storage().exists(), "wrong usage must not make a storage directory");
}

/// What fingers know from other programs works, or says in a line what to do.
#[test]
fn words_of_other_programs() {
    let site = Site::new();
    site.import(image::small(), "debian");
    site.run("images").stdout("debian:latest (amd64)\n").stderr("").success();
    site.run("ls").arg("-q").stdout("debian:latest\n").stderr("").success();
    let hint = "hint: did you mean debian:latest? ch-image list shows what there is\n";
    site.run("rmi").arg("debain").stderr(&format!("error: debain image not found\n{hint}")).failure();
    site.run("export")
        .args(["debain", "x.tar"])
        .stderr(&format!("error: can't export: no image debain\n{hint}"))
        .failure();
    site.ch_run("debain").arg("true").stderr_has("; did you mean debian:latest? ch-image list").code(125);
    let check = |words: &[&str], want: &str| {
        site.bare().args(words).stdout("").stderr(want).usage();
    };
    check(
        &["buid", "."],
        "error: unknown subcommand: buid\nhint: did you mean build? ch-image help lists the subcommands\n",
    );
    check(&["build", "--tagg", "x"], "error: unknown option: --tagg\nhint: did you mean --tag?\n");
    for (word, hint) in [("ps", "there is no daemon: "), ("exec", "ch-run IMAGE -- "), ("search", "look at https://")] {
        site.run(word).stderr_has(&format!("error: unknown subcommand: {word}\nhint: {hint}")).usage();
    }
    // Docker's options: what has a meaning has it, the rest is one warning.
    let words = ["--rm", "--load", "-q", "--label", "a=b", "--no-cache-filter", "x", "--network", "none"];
    let warning = "warning: not supported, ignored: --no-cache-filter, --network\n";
    site.build("labelled", "FROM debian\nLABEL a=a c=d\n").args(words).stderr(warning).success();
    let metadata = site.ch_run("labelled").args(["cat", "/ch/metadata.json"]).success().stdout;
    assert!(metadata.contains("\"a\": \"b\"") && metadata.contains("\"c\": \"d\""), "{metadata}");
    site.ch_run_with(&["-it", "--rm", "-v", "/etc:/mnt"], "debian").args(["test", "-e", "/mnt/passwd"]).success();
    let hint = "hint: --set-env=FOO=1, or --env FOO=1\n";
    site.ch_run_with(&["--set-env", "FOO=1"], "debian").arg("true").stderr_has(hint).code(125);
    site.ch_run_with(&["--no-hme"], "debian").arg("true").stderr_has("hint: did you mean --no-home?\n").code(125);
}

#[test]
fn common_options_stand_before_or_after_the_subcommand() {
    let site = Site::new();
    let elsewhere = site.path("elsewhere");
    let expected = format!("{}\n", "SITE/elsewhere");
    site.bare().arg("-s").arg(&elsewhere).arg("storage-path").stdout(&expected).success();
    site.run("storage-path").arg("-s").arg(&elsewhere).stdout(&expected).success();
    site.run("storage-path").arg(format!("--storage={}", elsewhere.display())).stdout(&expected).success();
    site.bare().args(["-s", "/nix", "storage-path", "-s"]).arg(&elsewhere).stdout(&expected).success();
}

#[test]
fn storage_directory_by_priority() {
    let site = Site::new();
    site.run("storage-path").stdout("SITE/storage\n").stderr("").success();
    site.run("storage-path").env_remove("CH_IMAGE_STORAGE").stdout("/var/tmp/tester/ch-image\n").success();
    let name = site.program("id").arg("-un").success().stdout;
    let of_passwd = format!("/var/tmp/{}/ch-image\n", name.trim());
    site.run("storage-path").env_remove("CH_IMAGE_STORAGE").env_remove("USER").stdout(&of_passwd).success();
    assert!(!site.storage().exists(), "storage-path must not make a storage directory");
}

#[test]
fn chatter_goes_to_the_log_file() {
    let site = Site::new();
    let log = site.path("log");
    // Why it failed is said where the user looks, too.
    let delete = || {
        site.run("delete")
            .arg("nix")
            .stdout("")
            .stderr("error: nix image not found\nhint: ch-image list shows what there is\n")
    };
    delete().env("CH_LOG_FILE", &log).failure();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("\nerror: nix image not found\n"), "log: {text:?}");
    delete().env("CH_LOG_FILE", "/dev/null").failure();
    // Appended, and with process and time when asked for.
    site.run("delete").arg("nix").env("CH_LOG_FILE", &log).env("CH_LOG_FESTOON", "1").failure();
    let longer = std::fs::read_to_string(&log).unwrap();
    let added = longer.strip_prefix(&text).expect("appended to");
    let festoon = added.lines().last().unwrap().split_whitespace().take(2).collect::<Vec<_>>();
    assert!(festoon[0].parse::<u32>().is_ok() && festoon[1].contains('T'), "festoon: {festoon:?}");
}

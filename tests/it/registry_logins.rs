//! Who gets the user's password, agent and tokens: those whom the user names, nobody whom an image brings in.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::harness::registry::{Ended, Guard, Registry, Reply, TokenRules};
use crate::harness::{Run, Site, image};

/// `user:secretpassword`
const LOGIN: &str = "dXNlcjpzZWNyZXRwYXNzd29yZA==";
const PASSWORD: &str = "secretpassword";

fn with_login(run: Run) -> Run {
    run.env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", PASSWORD)
}

/// A registry with an image that has a shell, `a:1`, which wants a login from now on.
fn private(site: &Site) -> (Registry, String) {
    let registry = Registry::start();
    let name = registry.name("a:1");
    site.import(image::small(), "small");
    site.run("push").args(["small", &name]).success();
    registry.guard(Guard::Basic(LOGIN.into()));
    registry.server.forget();
    (registry, name)
}

fn was_told(registry: &Registry) -> bool {
    registry.server.seen().iter().any(|seen| seen.header("authorization").is_some())
}

/// `--auth` says that the variables are for the registry of FROM. One password is not for two registries.
#[test]
fn from_gets_the_password_with_auth() {
    let site = Site::new();
    let ((first, one), (second, two)) = (private(&site), private(&site));
    let build = |text: &str| with_login(site.build("out", text));
    let from_one = format!("FROM {one}\nRUN true\n");
    build(&from_one)
        .stderr_has(&format!(
            "line 1: FROM: login required: {one}: the registry answered 401 Unauthorized\nhint: log in"
        ))
        .stderr_has("are not used for a registry that only the Dockerfile names, unless you say --auth")
        .failure();
    let from_two = format!("FROM {one} AS a\nFROM {two}\nCOPY --from=a /bin /x\n");
    build(&from_two).arg("--auth").stderr_has("are not used where FROM names more than one registry").failure();
    let copies = format!("FROM small\nCOPY --from={one} /bin /x\n");
    build(&copies).arg("--auth").stderr_has("are not used for a registry that").failure();
    assert!(!was_told(&first) && !was_told(&second));

    build(&from_one).arg("--auth").success();
    assert!(was_told(&first));
    // A trigger of the base image names the other one.
    let trigger = format!("FROM {one}\nONBUILD COPY --from={two} /bin /x\n");
    with_login(site.build("base", &trigger)).arg("--auth").success();
    site.run("delete").arg(&one).success();
    build(&format!("FROM {one} AS a\nFROM base\n"))
        .arg("--auth")
        .stderr_has(&format!("login required: {two}: "))
        .stderr_has("are not used for a registry that no FROM of the Dockerfile names")
        .failure();
    assert!(!was_told(&second));
    // A password on standard input is no other.
    let run = site.build("out", &from_two).env("CH_IMAGE_USERNAME", "user").arg("--password-stdin").stdin("secret\n");
    run.stderr_has("warning: --password-stdin: not used: ").failure();
    assert!(!was_told(&second));
}

/// What storage says is damaged came from anywhere.
#[test]
fn repair_sends_no_password() {
    let site = Site::new();
    let (registry, name) = private(&site);
    with_login(site.run("pull").arg(&name)).success();
    let layers = fs::read_dir(site.storage().join("layers")).unwrap();
    layers.for_each(|layer| fs::write(layer.unwrap().path().join("layer.json"), "{}").unwrap());
    registry.server.forget();
    let repair = with_login(site.run("fsck").args(["--repair", "--password-stdin", "--tls-no-verify"]));
    repair
        .stdin("otherpassword\n")
        .stderr_has("warning: --password-stdin: not used: fsck names no registry")
        .stderr_has("warning: --tls-no-verify: not used: fsck names no registry")
        .stderr_has(&format!("warning: can't pull {name} again: login required: {name}: "))
        .failure();
    assert!(!registry.server.lines().is_empty() && !was_told(&registry));
    with_login(site.run("pull").arg(&name)).success();
}

#[test]
fn a_command_gets_no_password() {
    let site = Site::new();
    site.import(image::small(), "small");
    let storage =
        format!("CH_IMAGE_STORAGE={}\n", site.storage().display()).replace(site.path("").to_str().unwrap(), "SITE/");
    for options in [&[][..], &["--env", "host"], &["--env", "clean", "-e", "*"], &["-e", "CH_IMAGE_PASSWORD"]] {
        let run = with_login(site.ch_run_with(options, "small")).env("OTHER", "kept");
        let done = run.args(["sh", "-c", "env | grep -E 'CH_IMAGE_|OTHER'"]).success();
        let mut lines: Vec<&str> = done.stdout.lines().collect();
        lines.sort();
        assert_eq!(lines, [storage.trim_end(), "OTHER=kept"], "{options:?}");
    }
    // Whoever wants it says so.
    with_login(site.ch_run_with(&["--set-env=CH_IMAGE_PASSWORD=other"], "small"))
        .args(["sh", "-c", "echo $CH_IMAGE_USERNAME,$CH_IMAGE_PASSWORD"])
        .stdout(",other\n")
        .success();
}

/// Whoever has the agent's socket is the user at other machines: a trigger that came with an image gets it if `--ssh`
/// says so, the user's own instructions as ever.
#[test]
fn triggers_get_no_agent() {
    let site = Site::new();
    site.import(image::small(), "small");
    let socket = site.path("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let look = "RUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo agent || echo none\n\
                ONBUILD RUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo agent || echo \"none$SSH_AUTH_SOCK\"\n";
    site.build("base", &format!("FROM small\n{look}")).env("SSH_AUTH_SOCK", &socket).stdout("agent\n").success();
    let build = || site.build("out", "FROM base\n").env("SSH_AUTH_SOCK", &socket).arg("--rebuild");
    build().stdout("none\n").success();
    build().args(["--ssh", "default"]).stdout("agent\n").success();
    build().arg(format!("--ssh=default={}", socket.display())).stdout("agent\n").success();
    site.build("base", "FROM small\nONBUILD RUN --mount=type=ssh,required true\n").success();
    build()
        .stderr_has("ssh agent default is required\nhint: start an agent (SSH_AUTH_SOCK), and give it: --ssh ID")
        .failure();
}

/// User information and what a query says, in errors and announcements.
#[test]
fn urls_show_no_secret() {
    let (site, server) = (Site::new(), Registry::start());
    site.import(image::small(), "small");
    server.intercept(|_, _| Some(Reply::new(403)));
    let url = format!("http://me:secretpassword@{}/file?token=secrettoken&ref=v1", server.server.name());
    let shown = format!("http://{}/file?token=REDACTED&ref=v1", server.server.name());
    let lacks = |done: &crate::harness::run::Done| {
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(!said.contains("secret"), "{said}");
    };
    let done = site.build("out", &format!("FROM small\nADD {url} /x\n")).args(["-v", "-v", "-v"]).failure();
    assert!(done.stderr.contains(&format!(": can't ADD {shown}: ")), "{}", done.stderr);
    // It is no registry whose advice this would be.
    assert!(!done.stderr.contains("hint:"), "{}", done.stderr);
    lacks(&done);
    lacks(&site.build("out", &format!("FROM small\nADD {url} /x\n")).arg("--dry-run").stdout_has(&shown).success());
    lacks(&site.build("out", &format!("FROM small\nCOPY {url} /x\n")).stderr_has(&shown).failure());
    let odd = "ADD http://me:secret/password@host/x /x\n";
    lacks(&site.build("out", &format!("FROM small\n{odd}")).stderr_has("http://REDACTED").failure());
    // Echoed lines, trees, plans, excerpts and hints, of whatever instruction.
    let other = "https://me:secret@host/x?token=secret";
    let text =
        format!("FROM small\nENV u={other}\nLABEL u={other}\nADD {url} /x\nRUN echo {other} >/dev/null; exit 3\n");
    for options in [vec!["--parse-only", "-v"], vec!["--dry-run", "-v"]] {
        let done = site.build("out", &text).args(options).success();
        assert!(done.stdout.contains("echo https://*********@host/x?token=******"), "{}", done.stdout);
        lacks(&done);
    }
    lacks(&site.build("out", &text.replace(&format!("ADD {url} /x\n"), "")).args(["-v", "--why"]).failure());
    for line in
        ["RUN --network=URL true", "ADD URL", "COPY --fom=URL a /b", "ADDD URL /x", "HEALTHCHECK URL", "EXPOSE URL"]
    {
        let line = line.replace("URL", other);
        lacks(&site.build("out", &format!("FROM small\n{line}\n")).failure());
    }
    lacks(
        &site.run("build").args(["-t", "x", "https://me:secret@host/x.git"]).stderr_has("https://host/x.git").failure(),
    );
}

/// Some registries say "not found" of what the anonymous may not see, with or without asking who we are. A login that
/// a file has for this registry is used before giving up; without one it is not in the registry.
#[test]
fn hidden_from_the_anonymous() {
    let token = TokenRules {
        login: LOGIN.into(),
        anonymous: vec!["pull".into()],
        life: 300,
        key: "token".into(),
        ended: Ended::default(),
    };
    for (guard, status) in [(Guard::Open, 404), (Guard::Open, 403), (Guard::Token(token), 404)] {
        let site = Site::new();
        let (registry, name) = private(&site);
        registry.guard(guard.clone());
        registry.with(|content| content.forget_tokens());
        let with_tokens = matches!(guard, Guard::Token(_));
        registry.intercept(move |seen, _| {
            let known = match with_tokens {
                // The first token is the anonymous one's.
                true => seen.header("authorization").is_none_or(|token| token != "Bearer token1"),
                false => seen.header("authorization") == Some(&format!("Basic {LOGIN}")),
            };
            let hidden = seen.path().contains("/manifests/") && !known;
            hidden.then(|| Reply::new(status).body(json!({"errors": [{"code": "NAME_UNKNOWN"}]}).to_string()))
        });
        let want = if status == 404 { format!("error: not in registry: {name}\n") } else { "403 Forbidden".to_owned() };
        site.run("pull").arg(&name).stderr_has(&want).failure();
        let auths = json!({"auths": {registry.server.name(): {"auth": LOGIN}}});
        site.write("home/.docker/config.json", &auths.to_string());
        registry.with(|content| content.forget_tokens());
        site.run("pull").arg(&name).success();
        site.run("pull").arg(registry.name("absent:1")).stderr_has("error: not in registry: ").failure();
        // One that is no longer good changes nothing.
        let wrong = json!({"auths": {registry.server.name(): {"auth": "dXNlcjp3cm9uZw=="}}});
        site.write("home/.docker/config.json", &wrong.to_string());
        registry.with(|content| content.forget_tokens());
        site.run("pull").args(["--no-cache", &name]).stderr_has(&want).failure();
    }
}

//! Names and passwords: asked for on a terminal, once or each time, before the long work; or from files and streams.

use crate::harness::dialogue::Dialogue;
use crate::harness::registry::{Ended, Guard, How, Registry, Reply, TokenRules};
use crate::harness::{Site, hold, image};
use crate::needs;

/// `user:secretpassword`
const LOGIN: &str = "dXNlcjpzZWNyZXRwYXNzd29yZA==";
const PASSWORD: &str = "secretpassword";

fn tokens(anonymous: &[&str]) -> Guard {
    Guard::Token(TokenRules {
        login: LOGIN.into(),
        anonymous: anonymous.iter().map(|a| (*a).to_owned()).collect(),
        life: 300,
        key: "token".into(),
        ended: Ended::default(),
    })
}

fn hold(registry: &Registry, repository: &str) -> String {
    let layer = hold::marked(repository);
    hold::image(registry, repository, "1", &hold::config(Some(arch()), &[&layer]), &[&layer]);
    registry.name(&format!("{repository}:1"))
}

fn arch() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

/// Asked once, before anything is packed, and never shown; a read-only token is upgraded without another question.
#[test]
fn a_push_asks_first_and_once() {
    needs!("script");
    for guard in [Guard::Basic(LOGIN.into()), tokens(&["pull"])] {
        let (site, registry) = (Site::new(), Registry::start());
        site.import(image::small(), "base");
        registry.guard(guard);
        let mut push = Dialogue::start(&site, &["push", "base", &registry.name("a:1")], &[]);
        let question = format!("\r\nregistry {} wants to know who you are\r\nUsername: ", registry.server.name());
        push.expect("destination: ").expect(&question).say("user").expect("Password: ").say(PASSWORD);
        push.expect("layer 1/1: gathering");
        let (shown, code) = push.end();
        assert_eq!(code, 0, "{shown}");
        assert_eq!(shown.matches("Username: ").count(), 1, "{shown}");
        assert!(!shown.contains(PASSWORD), "{shown}");
        assert!(registry.with(|content| content.manifests.contains_key(&("a".into(), "1".into()))));
    }
}

/// So it is at a registry that lets everybody read, and wants to know who it is of those who write.
#[test]
fn a_push_to_what_everybody_may_read() {
    needs!("script");
    let (site, registry) = (Site::new(), Registry::start());
    site.import(image::small(), "base");
    registry.intercept(|seen, _| {
        let writes = !matches!(seen.method.as_str(), "GET" | "HEAD");
        let known = seen.header("authorization") == Some(&format!("Basic {LOGIN}"));
        (writes && !known).then(|| Reply::new(401).header("WWW-Authenticate", "Basic realm=\"x\""))
    });
    let mut push = Dialogue::start(&site, &["push", "base", &registry.name("a:1")], &[]);
    push.expect("Username: ").say("user").expect("Password: ").say(PASSWORD).expect("layer 1/1: preparing");
    let (shown, code) = push.end();
    assert_eq!(code, 0, "{shown}");
    assert_eq!(shown.matches("Username: ").count(), 1, "{shown}");
    // Nothing is begun in vain.
    let posts = registry.server.lines().iter().filter(|l| l.starts_with("POST")).count();
    assert_eq!(posts, 3, "{:?}", registry.server.lines());
}

/// Remembered for the life of the process, or with `--password-many` asked for each time that a secret is needed: two
/// repositories want two tokens.
#[test]
fn password_many_asks_again() {
    needs!("script");
    let registry = Registry::start();
    let names = ["a", "b"].map(|repository| hold(&registry, repository));
    registry.guard(tokens(&[]));
    for (option, questions) in [("--password-many", 2), ("--verbose", 1)] {
        let site = Site::new();
        let stages = names.iter().map(|name| format!("FROM {name}\nCOPY Dockerfile /\n")).collect::<String>();
        site.write("context/Dockerfile", &format!("{stages}COPY --from=0 /usr/mark /\n"));
        let mut build = Dialogue::start(&site, &["build", option, "-t", "x", "context"], &[]);
        for _ in 0..questions {
            build.expect("Username: ").say("user").expect("Password: ").say(PASSWORD);
        }
        let (shown, code) = build.end();
        assert_eq!((code, shown.matches("Password: ").count()), (0, questions), "{shown}");
    }
}

/// Nothing typed, no terminal, an interrupted question.
#[test]
fn questions_without_answers() {
    needs!("script");
    let (site, registry) = (Site::new(), Registry::start());
    let name = hold(&registry, "a");
    registry.guard(Guard::Basic(LOGIN.into()));
    let mut pull = Dialogue::start(&site, &["pull", &name], &[]);
    pull.expect("Username: ").say("").expect("Password: ").say("");
    let (shown, code) = pull.end();
    assert!(code == 1 && shown.contains("no user name given"), "{code}: {shown}");
    let mut pull = Dialogue::start(&site, &["pull", &name], &[]);
    pull.expect("Username: ").say("user").expect("Password: ").say("wrong");
    let (shown, code) = pull.end();
    let refused = format!("login failed: {} refused the user name and password", registry.server.name());
    assert!(code == 1 && shown.contains(&refused), "{code}: {shown}");
    // Without a terminal nobody is asked.
    let done = site.run("pull").arg(&name).stderr_has("error: login required: ").failure();
    assert!(done.stderr.contains("CH_IMAGE_PASSWORD"), "{}", done.stderr);
}

/// What is not asked: the environment, standard input, files of Docker and Podman, a helper.
#[test]
fn passwords_from_elsewhere() {
    let (site, registry) = (Site::new(), Registry::start());
    let name = hold(&registry, "a");
    let host = registry.server.name();
    let pull = || site.run("pull").args(["--no-cache", &name]);
    for guard in [Guard::Basic(LOGIN.into()), tokens(&[])] {
        registry.guard(guard);
        pull().failure();
        pull().env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", PASSWORD).success();
        pull().env("CH_IMAGE_USERNAME", "user").arg("--password-stdin").stdin(&format!("{PASSWORD}\n")).success();
        pull()
            .arg("--password-stdin")
            .stdin("x\n")
            .stderr_has("error: --password-stdin: no user name\nhint: ")
            .failure();

        let auths = format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"{LOGIN}\"}}}}}}");
        let file = site.write("auth.json", &auths);
        pull().env("REGISTRY_AUTH_FILE", &file).success();
        site.write("run/containers/auth.json", &auths);
        pull().env("XDG_RUNTIME_DIR", site.path("run")).success();
        site.write("home/.docker/config.json", &auths);
        pull().success();
        // What the command line's user says comes before what files say.
        pull().env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", "wrong").stderr_has("login failed").failure();

        // A helper runs only if a file names it, and sees no secret of ours.
        site.write("home/.docker/config.json", "{}");
        let helper = format!(
            "#!/bin/sh\nenv >SITE/helper-env\ngrep -qx {host} || exit 1\necho '{{\"Username\":\"user\",\"Secret\":\"{PASSWORD}\"}}'\n"
        );
        let helper =
            site.write("tools/docker-credential-test", &helper.replace("SITE", site.path("").to_str().unwrap()));
        std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", site.path("tools").display());
        pull().env("PATH", &path).failure();
        assert!(!site.path("helper-env").exists());
        site.write("home/.docker/config.json", &format!("{{\"credHelpers\":{{\"{host}\":\"test\"}}}}"));
        pull().env("PATH", &path).env("CH_IMAGE_PASSWORD", "othersecret").success();
        let env = std::fs::read_to_string(site.path("helper-env")).unwrap();
        assert!(env.contains("PATH=") && !env.contains("othersecret"), "{env}");
        std::fs::remove_file(site.path("helper-env")).unwrap();
        std::fs::remove_file(site.path("home/.docker/config.json")).unwrap();
    }
}

/// While it works, neither its environment nor its command line shows a secret.
#[test]
fn others_see_no_secret() {
    let (site, registry) = (Site::new(), Registry::start());
    let name = hold(&registry, "a");
    registry.first(1, "manifests", Reply::new(200).body("{}").how(How::Stall(1)));
    let pull = site.run("pull").arg(&name).env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", PASSWORD);
    let mut pull = pull.start();
    while registry.server.lines().is_empty() {
        assert!(pull.is_alive());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for file in ["environ", "cmdline"] {
        let path = format!("/proc/{}/{file}", pull.child.id());
        // That it may not be read at all is fine, too.
        let text = std::fs::read(path).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains(PASSWORD), "{file}");
    }
    pull.kill();
}

/// H11: what the environment gives is for the registry of the command line, not for one that a Dockerfile brings in.
#[test]
fn a_dockerfile_gets_no_secret() {
    let (site, registry) = (Site::new(), Registry::start());
    let name = hold(&registry, "a");
    let mine = Registry::start();
    registry.guard(Guard::Basic(LOGIN.into()));
    let build = |tag: &str| {
        let run = site.build(tag, &format!("FROM {name}\nCOPY Dockerfile /\n"));
        run.env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", PASSWORD)
    };
    for tag in ["plain", &mine.name("x:1")] {
        let done = build(tag).failure();
        assert!(done.stderr.contains("login required: "), "{}", done.stderr);
    }
    let sent = registry.server.seen().iter().any(|seen| seen.header("authorization").is_some());
    assert!(!sent, "a secret went to a registry that the command line does not name");
    // The same registry as the tag's: that one is named.
    build(&registry.name("made:1")).success();
    let done = site.build("plain", "FROM scratch\nCOPY Dockerfile /\n").env("CH_IMAGE_PASSWORD", PASSWORD).success();
    assert!(!done.stdout.contains(PASSWORD) && !done.stderr.contains(PASSWORD));
}

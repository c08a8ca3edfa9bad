//! What people run: docker-registry with passwords and with a token server, behind nginx, and squid as the way out.

use crate::harness::server::{Guard, Talk, ca, forward_proxy, reverse_proxy};
use crate::harness::tokens::Tokens;
use crate::harness::{Run, Server, Site, image, wait_for};
use crate::needs;

fn with_login(run: Run, password: &str) -> Run {
    run.env("SSL_CERT_FILE", ca()).env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", password)
}

/// What those may do who have no name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Anonymous {
    Nothing,
    Pull,
}

/// There and back; what a wrong password and none are told.
fn round_trip(site: &Site, name: &str, anonymous: Anonymous) {
    let run = |subcommand: &str| site.run(subcommand).arg(name).env("SSL_CERT_FILE", ca());
    let push = || site.run("push").args(["base", name]).env("SSL_CERT_FILE", ca());
    site.import(image::small(), "base");
    let done = push().failure();
    assert!(done.stderr.contains("401 Unauthorized") && done.stderr.contains("hint: "), "{}", done.stderr);
    // A token is given to everybody; what it is worth, the upload tells.
    assert_eq!(done.stderr.contains("gathering"), anonymous == Anonymous::Pull, "{}", done.stderr);
    let done = with_login(push(), "wrong").stderr_lacks("gathering").failure();
    assert!(done.stderr.contains("refused the user name and password"), "{}", done.stderr);
    with_login(push(), "pass").stderr_has(": not present, uploading\n").success();
    with_login(push(), "pass").stderr_has(": already present\n").success();
    match anonymous {
        Anonymous::Pull => drop(run("pull").success()),
        Anonymous::Nothing => drop(run("pull").stderr_has("error: login required: ").failure()),
    }
    with_login(run("pull").args(["--auth", "--no-cache"]), "pass").success();
    with_login(run("pull"), "pass").stderr_has("image is current").success();
    with_login(run("list"), "pass").stdout_has("available remotely:  yes\n").success();
    let tree = |name: &str| site.tree(name);
    tree(name).assert_same(&tree("base"), "pushed and pulled");
}

#[test]
fn with_passwords() {
    needs!("docker-registry", "openssl");
    let (server, site) = (Server::of(Talk::Tls, &Guard::Passwords), Site::new());
    let name = server.name("some/image:1");
    round_trip(&site, &name, Anonymous::Nothing);
    // Whom to believe: the site's authority by another way, anybody, or only those whom the system knows.
    let pull = |options: &[&str]| with_login(site.run("pull").args(options).args(["--no-cache", &name]), "pass");
    pull(&["--ca", ca().to_str().unwrap()]).env_remove("SSL_CERT_FILE").success();
    pull(&["--tls-no-verify"]).env_remove("SSL_CERT_FILE").success();
    let refused = format!(
        ": can't connect to {}: certificate is not signed by an authority that this machine trusts\nhint: ",
        server.address()
    );
    pull(&[]).env_remove("SSL_CERT_FILE").stderr_has(&refused).failure();
}

#[test]
fn with_a_token_server() {
    needs!("docker-registry", "openssl");
    let tokens = Tokens::start();
    let server = Server::of(Talk::Plain, &Guard::Tokens(&tokens));
    let site = Site::new();
    round_trip(&site, &server.name("some/image:1"), Anonymous::Pull);
    // Within a registry a base is mounted: one token for two repositories.
    let base = server.name("some/image:1");
    site.build("ours", &format!("FROM {base}\nRUN echo ours >/ours\n")).success();
    let push = site.run("push").args(["--layers", "ours", &server.name("other/image:1")]);
    with_login(push, "pass").stderr_has("mounted from some/image").success();
}

/// nginx ends TLS, asks for a password, and takes little at once (unless told, no more than 1 MiB).
#[test]
fn behind_a_reverse_proxy() {
    needs!("docker-registry", "openssl", "nginx");
    let server = Server::of(Talk::Plain, &Guard::Open);
    let front = reverse_proxy(&server, "client_max_body_size 600k;");
    let site = Site::new();
    let name = format!("{}/some/image:1", front.address());
    round_trip(&site, &name, Anonymous::Nothing);
    // 413: the layer was too large for one request.
    front.has_written("access", |access| access.contains("PUT 413 ") && access.contains("PATCH 202 "));
}

/// A slow line that breaks: the download goes on where it stopped, in the same process and in the next.
#[test]
fn over_a_slow_line_that_breaks() {
    needs!("docker-registry", "openssl", "nginx");
    let server = Server::of(Talk::Plain, &Guard::Open);
    let site = Site::new();
    site.import(image::small(), "base");
    site.run("push").args(["base", &server.name("a:1")]).success();
    // So slow that it does not come to the end while we look, until it comes back.
    let limits = site.write("limits", "limit_rate 50k;");
    let mut front = reverse_proxy(&server, &format!("include {limits:?};"));
    let name = format!("{}/a:1", front.address());
    let pull = || with_login(site.run("pull").arg(&name), "pass");
    let arrived = || {
        let files = std::fs::read_dir(site.storage().join("ingest")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).max().unwrap_or(0)
    };
    // The reader dies.
    let mut killed = pull().start();
    wait_for("a part of the layer", || arrived() > 100_000);
    killed.kill();
    let is_whole = |line: &&str| line.starts_with("GET 200 ") && line.len() > "GET 200 9999 -".len();
    front.has_written("access", |access| access.lines().any(|line| is_whole(&line)));
    let first = arrived();
    // The server dies, and comes back.
    let running = pull().start();
    wait_for("another part of the layer", || arrived() > first + 100_000);
    front.kill();
    std::fs::write(limits, "").unwrap();
    front.again();
    let done = running.into_done(&[]);
    assert!(done.status.success(), "{}", done.stderr);
    site.tree(&name).assert_same(&site.tree("base"), "over a slow line");
    // The whole was asked for once; what a killed server sent it does not tell.
    let starts = |access: &str| {
        let ranges = access.lines().filter_map(|line| line.split_once(" bytes=")?.1.strip_suffix('-')?.parse().ok());
        ranges.collect::<Vec<u64>>()
    };
    let access = front.has_written("access", |access| starts(access).iter().any(|&start| start > first + 100_000));
    assert!(starts(&access).iter().all(|&start| start >= first), "{first}: {access}");
    assert_eq!(access.lines().filter(is_whole).count(), 1, "{access}");
}

/// squid is the only way out, and wants to know who we are: TLS by CONNECT, plain HTTP (ADD) with the whole URL.
#[test]
fn through_a_forward_proxy() {
    needs!("docker-registry", "openssl", "squid");
    let (server, squid, site) = (Server::start(), forward_proxy(), Site::new());
    site.import(image::small(), "base");
    let name = format!("registry.test:{}/some/image:1", server.port());
    let proxy = |login: &str| format!("http://{login}{}", squid.address());
    let run = |subcommand: &str, login: &str| {
        let proxy = proxy(login);
        site.run(subcommand).env("SSL_CERT_FILE", ca()).env("HTTPS_PROXY", &proxy).env("HTTP_PROXY", &proxy)
    };
    const LOGIN: &str = "user:se%3Acret@";
    run("push", LOGIN).args(["base", &name]).success();
    run("pull", LOGIN).arg(&name).success();
    site.tree(&name).assert_same(&site.tree("base"), "through squid");
    let wanted = "proxy wants a user name and password: HTTP/1.1 407 Proxy Authentication Required";
    for login in ["", "user:wrongsecret@"] {
        let done = run("pull", login).args(["-vvv", "--no-cache", &name]).stderr_has(wanted).failure();
        assert!(done.stderr.contains("hint: ") && !done.stderr.contains("wrongsecret"), "{}", done.stderr);
    }
    // Directly, nobody knows the name.
    let direct = run("pull", LOGIN).args(["--no-cache", &name]).env("NO_PROXY", ".test");
    direct.stderr_has("can't find host \"registry.test\"").failure();

    let files = crate::harness::registry::Server::start(|_| crate::harness::registry::Reply::new(200).body("file\n"));
    let url = format!("http://files.test:{}/file", files.address.port());
    site.write("context/Dockerfile", &format!("FROM base\nADD {url} /\nRUN cat /file\n"));
    run("build", LOGIN).args(["-t", "made", "context"]).stdout("file\n").success();
    for line in [format!("CONNECT registry.test:{} 200 user\n", server.port()), format!("GET {url} 200 user\n")] {
        squid.has_written("access", |access| access.contains(&line));
    }

    // The proxy's password is in no image.
    for secret in ["se:cret", "se%3Acret"] {
        let grep = site.program("grep").args(["-rlaF", secret]).arg(site.storage());
        grep.stdout("").failure();
    }
}

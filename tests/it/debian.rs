//! The main job on real input: a Debian image imported, pushed to a real registry, pulled back and built upon.

use std::fs;

use crate::harness::{Server, Site, Tree, image, in_each_mode};
use crate::{needs, skip};

/// Making the standard mount points and files in them changes the times of these directories.
fn comparable(mut tree: Tree) -> Tree {
    for dir in ["etc", "run", "var"] {
        if let Some(entry) = tree.0.get_mut(dir) {
            entry.mtime = 0;
        }
    }
    tree.without(Site::GIVEN)
}

/// Imported, pushed over TLS (unverified, then verified), deleted, pulled back, compared file by file.
#[test]
fn a_real_image_goes_to_a_real_registry_and_back() {
    needs!("docker-registry", "openssl", "gzip");
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let source = comparable(Tree::of_tarball(&debian).unprivileged());
    assert!(source.0.len() > 2000, "{} files are not a Debian", source.0.len());
    in_each_mode(|site| {
        let server = Server::start();
        let (unverified, verified) = (server.name("debian:unverified"), server.name("deep/path/debian:verified"));
        site.import(&debian, "debian");
        comparable(site.tree("debian")).assert_same(&source, "imported");

        site.run("push").args(["debian", &unverified]).stderr_has("certificate").failure();
        site.run("push").args(["--tls-no-verify", "debian", &unverified]).stderr_has("done\n").success();
        site.run("push").args(["debian", &verified]).env("SSL_CERT_FILE", server.ca()).success();
        site.run("delete").arg("debian").success();
        assert_eq!(site.images(), [""; 0]);

        site.run("pull").arg(&verified).stderr_has("certificate").failure();
        assert_eq!(site.images(), [""; 0]);
        site.run("pull").args(["--tls-no-verify", &unverified]).stderr_has("done\n").success();
        comparable(site.tree(&unverified)).assert_same(&source, "pulled without verification");
        site.run("pull").arg(&verified).env("SSL_CERT_FILE", server.ca()).success();
        comparable(site.tree(&verified)).assert_same(&source, "pulled with verification");
        assert_eq!(site.images().len(), 2);

        let dir = site.path("unpacked");
        let fresh = Site::of(site.mode());
        fresh.run("pull").arg(&verified).arg(&dir).env("SSL_CERT_FILE", server.ca()).success();
        comparable(Tree::of_dir(&dir)).assert_same(&source, "pulled into a directory");
        assert_eq!(fresh.images(), [""; 0], "pull IMAGE_REF IMAGE_DIR leaves nothing in storage");
        site.ch_run(dir.to_str().unwrap()).args(["cat", "/etc/debian_version"]).stdout_has("12.").success();
    });
}

/// gcc is installed, a program compiled in one stage and copied to another; the image travels; the program runs.
#[test]
fn a_program_is_compiled_in_an_image_and_run_from_another() {
    needs!("docker-registry", "openssl");
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    in_each_mode(|site| {
        let server = Server::start();
        site.import(&debian, "debian");
        site.write(
            "context/main.c",
            "int part(void);\n#include <stdio.h>\nint main(void) { printf(\"the answer is %d\\n\", part()); }\n",
        );
        site.write("context/tree/deep/part.c", "int part(void) { return ANSWER; }\n");
        site.write("context/tree/data", "data\n");
        let dockerfile = "\
            FROM debian AS build\n\
            ENV DEBIAN_FRONTEND=noninteractive\n\
            RUN apt-get -o APT::Sandbox::User=root -qq update && \\\n\
            \x20   apt-get -o APT::Sandbox::User=root -qq install -y --no-install-recommends gcc libc6-dev\n\
            WORKDIR /src\n\
            COPY main.c .\n\
            COPY tree tree/\n\
            ENV ANSWER=42\n\
            RUN gcc -DANSWER=$ANSWER -o /usr/local/bin/answer main.c tree/deep/part.c\n\
            FROM debian\n\
            WORKDIR /work\n\
            ENV PLACE=here\n\
            COPY --from=build /usr/local/bin/answer /usr/local/bin/\n\
            COPY --from=0 /src/tree/ tree/\n\
            RUN answer >said && cat /work/tree/data >>said && ! command -v gcc\n";
        let done = site.build("answer", dockerfile).success();
        assert!(done.stderr.ends_with("grown in 14 instructions: answer\n"), "{}", done.stderr);

        let name = server.name("me/answer:1");
        site.run("push").args(["answer", &name]).env("SSL_CERT_FILE", server.ca()).success();
        let fresh = Site::of(site.mode());
        fresh.run("pull").arg(&name).env("SSL_CERT_FILE", server.ca()).success();
        fresh.ch_run(&name).arg("answer").stdout("the answer is 42\n").stderr("").success();
        fresh.ch_run(&name).args(["cat", "/work/said"]).stdout("the answer is 42\ndata\n").success();
        // Settings travel with the image: the next build on it begins where this one ended.
        fresh.write("context/empty", "");
        fresh.build("next", &format!("FROM {name}\nRUN echo $PLACE $(pwd)\n")).stdout("here /work\n").success();
        let environment = fs::read_to_string(fresh.path("context/empty")).unwrap();
        assert_eq!(environment, "", "the context is only read");
    });
}

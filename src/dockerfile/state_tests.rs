use super::*;
use crate::dockerfile::plan::{Options, plan};
use crate::dockerfile::platform::Platform;
use crate::dockerfile::{parse, parse_trigger};

/// Evaluates all of a one-stage file on an image with `A=1`; the state and the last step.
fn run(text: &str) -> Result<(State, Step)> {
    let text = format!("ARG G=g\nFROM x\n{text}");
    let file = parse(text.as_bytes()).unwrap_or_else(|diagnostics| panic!("{text}: {diagnostics:?}"));
    let build_args = [("BA".to_owned(), "ba".to_owned())];
    let linux = Platform::linux("amd64", "");
    let options =
        Options { target: None, build_args: &build_args, build_platform: linux.clone(), target_platform: linux };
    let plan = plan(&file, &options)?;
    let mut state = State::of_image(&[("A".into(), "1".into())], Config::default(), file.escape)?;
    let mut last = None;
    for instruction in &file.stages[0].instructions {
        last = Some(state.step(instruction, &plan.globals)?);
    }
    Ok((state, last.unwrap()))
}

#[test]
fn history_texts() {
    let check = |text: &str, want: &str, empty: bool| {
        let (_, step) = run(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!((step.created_by.as_str(), step.empty_layer), (want, empty), "{text}");
    };
    check("ENV a=$A 'b c'=\"d $A\"", "ENV a=1 b c=d 1", true);
    check("ENV a  b $A c ", "ENV a=b 1 c", true);
    check("ENV X=$NO", "ENV X=", true);
    check("ENV a=2 b=$a", "ENV a=2 b=", true);
    check("ARG a=2 b=$a c", "ARG a=2 b=2 c", true);
    check("ARG G BA TARGETOS", "ARG G=g BA=ba TARGETOS=linux", true);
    check("ARG BA=${", "ARG BA=ba", true);
    check("LABEL a.b=$A c='d'", "LABEL a.b=1 c=d", true);
    check("WORKDIR $A/b", "WORKDIR /1/b", false);
    check("WORKDIR /x//y/", "WORKDIR /x//y/", false);
    check("WORKDIR /", "WORKDIR /", true);
    check("USER u$A:g", "USER u1:g", true);
    check("EXPOSE 90/udp 80 $A", "EXPOSE [1/tcp 80/tcp 90/udp]", true);
    check("ENV P='80 443'\nEXPOSE $P", "EXPOSE [80/tcp 443/tcp]", true);
    check("VOLUME /a /$A", "VOLUME [/a /1]", true);
    check("VOLUME [\"/a b\"]", "VOLUME [/a b]", true);
    check("CMD echo $A", "CMD [\"/bin/sh\" \"-c\" \"echo $A\"]", true);
    check("CMD", "CMD [\"/bin/sh\" \"-c\" \"\"]", true);
    check("CMD [\"a\", \"$A\"]", "CMD [\"a\" \"$A\"]", true);
    check("ENTRYPOINT []", "ENTRYPOINT []", true);
    check("SHELL [\"/bin/bash\", \"-c\"]", "SHELL [/bin/bash -c]", true);
    check("SHELL [\"/$A\"]\nCMD x", "CMD [\"/1\" \"x\"]", true);
    check("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGTERM", true);
    check("MAINTAINER $A me", "MAINTAINER $A me", true);
    check("ONBUILD RUN x", "", true);
    check("RUN echo $A", "RUN /bin/sh -c echo $A # buildkit", false);
    check("ARG b=2\nRUN x", "RUN |1 b=2 /bin/sh -c x # buildkit", false);
    check("ARG b=2\nENV b=3\nRUN [\"x\", \"$b$i\"]", "RUN |1 b=3 x 3$i # buildkit", false);
    check("COPY --chown=u$A --chmod=75$A --link a$A b /$A/", "COPY --chown=u1 --chmod=751 a1 b /1/ # buildkit", false);
    check("COPY --parents a <<X b\n$A\nX", "COPY --parents a <<X b # buildkit", false);
    check("ADD https://h/x?y=$A /", "ADD https://h/x?y=REDACTED / # buildkit", false);
    check(
        "HEALTHCHECK --retries=2 CMD [\"a\"]",
        "HEALTHCHECK {Test:[CMD a] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}",
        true,
    );
}

#[test]
fn evaluation_errors() {
    let check = |text: &str, want: &str| {
        let e = run(text).expect_err(text).to_string();
        assert!(e.contains(want) && e.starts_with("line "), "{text}: {e}");
    };
    check("ENV a=${A", "line 3: ENV: can't expand ${A: missing '}'");
    check("LABEL a='x", "unterminated single quote");
    check("ARG a=${A.}", "unsupported modifier");
    check("WORKDIR ${X:?no}", "X: no");
    check("EXPOSE x", "invalid port");
    check("STOPSIGNAL x$A", "invalid signal: \"x1\"");
    check("STOPSIGNAL --x=y $NO", "invalid signal: \"\"");
    check("VOLUME $NO", "path is empty");
    check("COPY --chmod=9 a b", "invalid mode");
    check("COPY https://h/x /", "source is a URL");
    check("COPY git@h:x /", "source is a Git");
    check("ADD ftp://h/x /", "not supported: ftp://h/x: only http and https");
    check("COPY <<X a\n${\nX", "can't expand heredoc");
    check("COPY <<.. a\n..", "can't name a file");
    check("COPY --exclude=[ a b", "invalid ignore pattern");
    check("ADD --checksum=sha256:12 https://h/x /", "64 hexadecimal");
    check("ADD --checksum=sha256:12 x /", "only for a URL");
    check("ADD --checksum=12 https://h/x https://h/y /", "exactly one");
    check("ADD --checksum=xyz https://h/x.git /", "--checksum=COMMIT");
    check("RUN --mount=type=cache x", "expected target");
    check("RUN --mount=type=cache,target=${ x", "can't expand");
}

#[test]
fn commands() {
    let check = |text: &str, argv: &[&str], script: Option<(&str, &str)>| {
        let Ok((_, Step { action: Action::Run(step), .. })) = run(text) else { panic!("{text}") };
        assert_eq!(step.argv, argv, "{text}");
        let got = step.script.as_ref().map(|file| (file.name.as_str(), file.content.as_str()));
        assert_eq!(got, script, "{text}");
    };
    check("RUN", &["/bin/sh", "-c", ""], None);
    check("RUN []", &[], None);
    check("RUN [ -d x ] || y", &["/bin/sh", "-c", "[ -d x ] || y"], None);
    check("RUN <<EOF\na\n\tb\nEOF", &["/bin/sh", "-c", "a\n\tb\n"], None);
    check("RUN <<-'EOF'\n\ta\n\tEOF", &["/bin/sh", "-c", "a\n"], None);
    check("RUN <<EOF\n#!/bin/x\na\nEOF", &["/bin/sh", "-c", "/dev/pipes/EOF"], Some(("EOF", "#!/bin/x\na\n")));
    check("RUN <<../a\n#!/bin/x\n../a", &["/bin/sh", "-c", "/dev/pipes/a"], Some(("a", "#!/bin/x\n")));
    check("RUN cat <<A 3<<-B; x\na\nA\n\tb\n\tB", &["/bin/sh", "-c", "cat <<A 3<<-B; x\na\nA\n\tb\nB"], None);
    check("RUN cat <<A>out\na\nA", &["/bin/sh", "-c", "cat <<A>out\na\nA"], None);
    check("RUN --mount=type=tmpfs,target=/t --network=none x", &["/bin/sh", "-c", "x"], None);
}

#[test]
fn copies() {
    let Ok((_, Step { action: Action::Copy(step), .. })) =
        run("WORKDIR /w\nCOPY --from=$G --exclude=*.o --chmod=u+x <<A <<\"B\" x $A\n$A\\n'\nA\n$A\nB")
    else {
        panic!()
    };
    let file = |name: &str, content: &str| File { name: name.into(), content: content.into() };
    assert_eq!(step.files, [file("A", "1n'\n"), file("B", "$A\n")]);
    assert_eq!(step.sources, [Remote::Local("x".into())]);
    assert_eq!((step.destination.as_str(), step.target.as_str(), step.from.as_deref()), ("1", "/w/1", Some("g")));
    assert!(step.exclude.excludes("a.o") && !step.exclude.excludes("b/a.o"));
    let Ok((_, Step { action: Action::Copy(step), .. })) = run("ADD --unpack=false --keep-git-dir a.tar .") else {
        panic!()
    };
    assert_eq!((step.is_add, step.unpack, step.target.as_str()), (true, Some(false), "/"));
}

#[test]
fn configuration() {
    let config = |text: &str| run(text).unwrap().0.config;
    let strings = |words: &[&str]| Some(words.iter().map(|w| w.to_string()).collect::<Vec<_>>());
    assert_eq!(config("CMD [\"a\"]\nCMD [\"b\"]").cmd, strings(&["b"]));
    assert_eq!(config("CMD [\"a\"]\nCMD []").cmd, None);
    assert_eq!(config("CMD [\"a\"]\nENTRYPOINT [\"b\"]").cmd, strings(&["a"]));
    assert_eq!(config("LABEL a=1 b=2\nLABEL a=3").labels, [("a".into(), "3".into()), ("b".into(), "2".into())]);
    assert_eq!(config("EXPOSE 80 81\nEXPOSE 81 82").exposed_ports, ["80/tcp", "81/tcp", "82/tcp"]);
    assert_eq!(config("ONBUILD  run  a \\\n b").onbuild, ["run  a  b"]);
    assert_eq!(config("ONBUILD RUN <<X\na\nX").onbuild, ["RUN <<X\na\nX"]);
    let mut state = State::of_image(&[], Config { cmd: strings(&["old"]), ..Config::default() }, '\\').unwrap();
    state.step(&parse_trigger("ENTRYPOINT x").unwrap(), &Globals::default()).unwrap();
    assert_eq!(state.config.cmd, None);
    let (base, _) = run("CMD [\"a\"]\nONBUILD RUN x\nARG V=1").unwrap();
    let mut child = State::of_stage(&base);
    assert_eq!((child.config.onbuild.len(), child.scope.lookup("V")), (0, Some("1".into())));
    child.step(&parse_trigger("ENTRYPOINT [\"e\"]").unwrap(), &Globals::default()).unwrap();
    assert_eq!(child.config.cmd, None);
}

#[test]
fn escape_character_of_the_file() {
    let file = parse(b"# escape=`\nFROM x\nCOPY a`$A C:\\$A").unwrap();
    let mut state = State::of_image(&[("A".into(), "1".into())], Config::default(), file.escape).unwrap();
    let step = state.step(&file.stages[0].instructions[0], &Globals::default()).unwrap();
    assert_eq!(step.created_by, "COPY a$A C:\\1 # buildkit");
}

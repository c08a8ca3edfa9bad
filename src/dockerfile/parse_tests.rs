use super::*;
use crate::dockerfile::ast::{Arg, Command, Pairs, Source};
use crate::dockerfile::diagnostic;

/// `level LINE,COL: message` of the first fault, or `ok`.
fn verdict(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(_) => "ok".to_owned(),
        Err(diagnostics) => {
            let first = &diagnostics[0];
            let level = if diagnostic::level(&diagnostics) == Some(Level::Ast) { "ast" } else { "instr" };
            format!("{level} {},{}: {}", first.line, first.col, first.message)
        }
    }
}

/// An instruction after FROM.
fn check(text: &str, want: &str) {
    assert_eq!(verdict(&format!("FROM x\n{text}\n")), want, "{text:?}");
}

fn kind(text: &str) -> Kind {
    let file =
        parse(format!("FROM x\n{text}\n").as_bytes()).unwrap_or_else(|diagnostics| panic!("{text}: {diagnostics:?}"));
    file.stages[0].instructions[0].kind.clone()
}

#[test]
fn whole_files() {
    let check = |text: &str, want: &str| assert_eq!(verdict(text), want, "{text:?}");
    check("", "ast 1,1: no instructions found");
    check("# a\n\n", "ast 1,1: no instructions found");
    check("FROM x", "ok");
    check("from x as y", "ok");
    check("\u{feff}FROM x", "ok");
    check("#!/usr/bin/env x\nFROM x", "ok");
    check("ARG a\nFROM x", "ok");
    check("ARG a", "ok");
    check("FR\\\nOM x", "ok");
    check("FROM x\r\nRUN a \\\r\n  b\r\n", "ok");
    check("RUN x", "instr 1,1: first instruction must be ARG or FROM");
    check("ENV a=b\nFROM x", "instr 1,1: first instruction must be ARG or FROM");
    check("FOO x", "instr 1,1: unknown instruction: FOO");
    check("FROM x\n\\", "instr 2,1: expected an instruction");
    check("FROM\u{a0}x", "instr 1,1: unknown instruction: FROM\u{a0}X");
    check("FROM x\nENV a\nFOO", "ast 2,5: ENV: expected NAME=VALUE");
    check("FROM x\nFOO\nENV a", "ast 2,1: unknown instruction: FOO");
    check("FROM x\n  RUN --x\n", "instr 2,7: RUN: invalid option --x");
    check("FROM x\nCOPY \\\n# c\n  --x a b\n", "instr 4,3: COPY: invalid option --x");
    check("FROM\u{b}x\nRUN\u{c}y\nUSER\r\tz", "ok");
    check("\u{85}FROM x\n\u{2003}\u{3000}RUN y", "ok");
    check("FROM\u{2003}x", "instr 1,1: unknown instruction: FROM\u{2003}X");
    check("\u{feff}\u{feff}FROM x", "instr 1,1: unknown instruction: \u{feff}FROM");
    check("\u{feff}# escape=`\n\u{feff}", "instr 2,1: unknown instruction: \u{feff}");
    check("FROM x\nCO\\\n# c\nPY --fr\\\n\nom=\\\nx a b", "ok");
    check("FROM x\nRUN [\"a\", \\\n# c\n 1]", "ast 2,5: expected only strings in the JSON array");
    check("FROM x\n \\\n \\\n", "instr 3,1: expected an instruction");
    check("FROM x\nRUN a \\", "ok");
    check("FROM x\nENV a \\\n# b\n", "ast 2,5: ENV: expected NAME=VALUE");
    check("FROM x \\\n AS \\\n\\\n y", "ok");
}

#[test]
fn directives() {
    let check = |text: &str, want: &str| assert_eq!(verdict(text), want, "{text:?}");
    check("# escape=\\\nFROM x", "ok");
    check("#escape = `  \nFROM x\nRUN a `\n b", "ok");
    check("# ESCAPE=`\nFROM x\nRUN a `\nb", "ok");
    check("# escape=x\nFROM x", "ast 1,10: expected escape=\\ or escape=`");
    check("# escape=``\nFROM x", "ast 1,10: expected escape=\\ or escape=`");
    check("# escape=\nFROM x", "ok");
    check("# escape=`\n# escape=`\nFROM x", "ast 2,1: repeated directive: escape");
    check("# syntax=a\n# Syntax=b\nFROM x", "ast 2,1: repeated directive: syntax");
    check("# check=skip=all;error=true\n# syntax=a b\n# escape=`\nFROM x\nRUN a`\nb", "ok");
    check("# foo=bar\n# escape=x\nFROM x", "ok");
    check("# comment\n# escape=x\nFROM x", "ok");
    check("\n# escape=x\nFROM x", "ok");
    check("FROM x\n# escape=x", "ok");
    check("#!x\n# escape=x\nFROM x", "ok");
    check(" \t#\u{a0}escape \t= ` \u{a0}\r\nFROM x\nRUN a `\r\nb", "ok");
    check("# escape=\\ # why\nFROM x", "ast 1,10: expected escape=\\ or escape=`");
    check("# escape = \u{a0}\n# escape=x\nFROM x", "ok");
    check("# syntax=a \\\n# escape=x\nFROM x", "ast 2,10: expected escape=\\ or escape=`");
    check("# check=a\n# syntax=b\n# check=c\nFROM x", "ast 3,1: repeated directive: check");
    check("# escape.x=y\n# escape=x\nFROM x", "ok");
    check("# 1escape=x\n# escape=x\nFROM x", "ok");
    check("# escape x\nFROM x", "ok");
    check("# escape=`\nFROM x\nRUN a \\\nb", "instr 4,1: unknown instruction: B");
    check("# escape=`\nFROM x\nCOPY --from=a`\tb --chown=\"c`\" d\" e f", "ok");
    check("# escape=`\nFROM x\nRUN cat `<<EOF\n", "ok");
    check("# escape=`\nFROM x\nRUN cat \\<<EOF\n", "ok");
    check("# escape=`\nFROM x\nRUN --mount=a` <<EOF x\nFOO\nEOF", "ok");
    let escape = |text: &str| parse(text.as_bytes()).unwrap().escape;
    assert_eq!((escape("# escape=`\nFROM x"), escape("# x=y\n# escape=`\nFROM x")), ('`', '\\'));
}

#[test]
fn from() {
    check("FROM", "instr 2,5: FROM: expected IMAGE or IMAGE AS NAME");
    check("FROM a b", "instr 2,6: FROM: expected IMAGE or IMAGE AS NAME");
    check("FROM a foo b", "instr 2,6: FROM: expected IMAGE or IMAGE AS NAME");
    check("FROM a AS b c", "instr 2,6: FROM: expected IMAGE or IMAGE AS NAME");
    check("FROM a # b", "instr 2,6: FROM: expected IMAGE or IMAGE AS NAME");
    check("FROM a AS 1", "instr 2,11: FROM: invalid stage name: 1");
    check("FROM a AS -b", "instr 2,11: FROM: invalid stage name: -b");
    check("FROM a AS b@c", "instr 2,11: FROM: invalid stage name: b@c");
    check("FROM a AS B.c_d-e", "ok");
    check("FROM a AS platform-arm/v7", "ok");
    check("FROM a AS ${V}", "ok");
    check("FROM a AS b$", "instr 2,11: FROM: invalid stage name: b$");
    check("FROM a AS $", "instr 2,11: FROM: invalid stage name: $");
    check("FROM a AS é", "instr 2,11: FROM: invalid stage name: é");
    check("FROM -- a\u{b}as\tb", "ok");
    check("FROM a AS", "instr 2,6: FROM: expected IMAGE or IMAGE AS NAME");
    check("FROM [\"a\"]", "ok");
    check("FROM --platform=linux/amd64 a", "ok");
    check("FROM --platform=a --platform=a b", "instr 2,19: FROM: repeated option --platform");
    check("FROM --platform= a", "ok");
    check("FROM --platform a", "instr 2,6: FROM: expected a value: --platform=VALUE");
    check("FROM --platfrom=x a", "instr 2,6: FROM: invalid option --platfrom");
    let file = parse(b"FROM --platform=$P A:b AS Name").unwrap();
    let want = From { platform: Some("$P".into()), image: "A:b".into(), name: Some("name".into()) };
    assert_eq!(file.stages[0].from, want);
}

#[test]
fn pairs_and_args() {
    check("ENV", "instr 2,4: ENV: expected NAME=VALUE");
    check("ENV a", "ast 2,5: ENV: expected NAME=VALUE");
    check("ENV a=b c", "ast 2,9: ENV: expected NAME=VALUE");
    check("ENV a=b # c", "ast 2,9: ENV: expected NAME=VALUE");
    check("ENV =b", "instr 2,5: ENV: expected a name before =");
    check("ENV a=b =c", "instr 2,9: ENV: expected a name before =");
    check("ENV --x a=b", "instr 2,5: ENV: invalid option --x");
    check("ENV --x a", "ast 2,9: ENV: expected NAME=VALUE");
    check("ENV -- --a=b", "ok");
    check("LABEL a", "ast 2,7: LABEL: expected NAME=VALUE");
    check("LABEL \"a b\"=c", "ok");
    check("ENV a\u{a0}b", "ast 2,5: ENV: expected NAME=VALUE");
    check("ENV a = b", "ok");
    check("ENV a= b", "ast 2,8: ENV: expected NAME=VALUE");
    check("ENV a=\"b c\"d e", "ast 2,14: ENV: expected NAME=VALUE");
    check("ENV \"a\"", "ast 2,5: ENV: expected NAME=VALUE");
    check("ENV a=b \\\\\\\n", "ast 2,9: ENV: expected NAME=VALUE");
    check("LABEL =", "instr 2,7: LABEL: expected a name before =");
    check("LABEL --x =b", "instr 2,7: LABEL: invalid option --x");
    check("ARG a = b", "instr 2,7: ARG: expected a name before =");
    check("ARG --x", "instr 2,8: ARG: expected NAME or NAME=DEFAULT");
    check("ARG", "instr 2,4: ARG: expected NAME or NAME=DEFAULT");
    check("ARG =a", "instr 2,5: ARG: expected a name before =");
    check("ARG --x=y a", "ok");
    let words = |pairs: &[(&str, &str)]| {
        Kind::Env(Pairs::Words(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()))
    };
    let legacy = |name: &str, value: &str| Kind::Env(Pairs::Legacy(name.into(), value.into()));
    let check = |text: &str, want: Kind| assert_eq!(kind(text), want, "{text}");
    check("ENV a=b", words(&[("a", "b")]));
    check("ENV a=b=c d='e f' g=\"h\" i=", words(&[("a", "b=c"), ("d", "'e f'"), ("g", "\"h\""), ("i", "")]));
    check("ENV a=b\\ c \\\n   d=e", words(&[("a", "b\\ c"), ("d", "e")]));
    check("ENV a=\"b", words(&[("a", "\"b")]));
    check("ENV a   b  c=d ", legacy("a", "b  c=d"));
    check("ENV \"a b\" c", legacy("\"a", "b\" c"));
    check("ENV a #b", legacy("a", "#b"));
    let arg = |name: &str, default: Option<&str>| Arg { name: name.into(), default: default.map(str::to_owned) };
    assert_eq!(kind("ARG a b= c='d e'"), Kind::Arg(vec![arg("a", None), arg("b", Some("")), arg("c", Some("'d e'"))]));
}

#[test]
fn commands() {
    check("RUN", "ok");
    check("CMD", "ok");
    check("ENTRYPOINT", "ok");
    check("RUN [1]", "ast 2,5: expected only strings in the JSON array");
    check("RUN [[\"a\"]]", "ast 2,5: expected only strings in the JSON array");
    check("CMD [\"a\", null]", "ast 2,5: expected only strings in the JSON array");
    check("CMD --x", "instr 2,5: CMD: invalid option --x");
    check("ENTRYPOINT --x=[ [1]", "ast 2,18: expected only strings in the JSON array");
    check("RUN --network=none x", "ok");
    check("RUN --network= x", "ok");
    check("RUN --network=None x", "instr 2,5: RUN: expected --network=default, none or host");
    check("RUN --security=x y", "instr 2,5: RUN: expected --security=sandbox or insecure");
    check("RUN --device=a --device=b x", "ok");
    check(
        "RUN --mount=from=$x y",
        "instr 2,5: RUN --mount: no variables in from=$x; name a stage with FROM … AS instead",
    );
    check("RUN --mount=type=nonsense,x y", "ok");
    check("RUN --mount= y", "instr 2,5: RUN --mount: expected KEY=VALUE");
    check("RUN --mount y", "instr 2,5: RUN: expected a value: --mount=VALUE");
    check("RUN --mount=from=a$ y", "ok");
    check(
        "RUN --mount=type=secret,FROM=\\$x y",
        "instr 2,5: RUN --mount: no variables in from=$x; name a stage with FROM … AS instead",
    );
    check("RUN --network=none --network=none x", "instr 2,20: RUN: repeated option --network");
    check("RUN --network x", "instr 2,5: RUN: expected a value: --network=VALUE");
    check("RUN --Network=none x", "instr 2,5: RUN: invalid option --Network");
    check("RUN \\--network=none x", "ok");
    check("RUN --", "ok");
    check("CMD --", "ok");
    check("CMD -x", "ok");
    check("ENTRYPOINT [\"a\", [\"b\"]]", "ast 2,12: expected only strings in the JSON array");
    check("SHELL --x [\"a\"]", "instr 2,7: SHELL: invalid option --x");
    check("SHELL [\"a\"] b", "instr 2,7: SHELL: expected a JSON array");
    check("SHELL ['a']", "instr 2,7: SHELL: expected a JSON array");
    check("SHELL [\"a\", 1]", "ast 2,7: expected only strings in the JSON array");
    check("RUN --mount=\\\"a\\\"b x", "instr 2,5: RUN --mount: expected a comma after the closing quote");
    check("SHELL", "instr 2,6: SHELL: expected a JSON array");
    check("SHELL []", "instr 2,7: SHELL: expected a JSON array");
    check("SHELL /bin/sh -c", "instr 2,7: SHELL: expected a JSON array");
    check("SHELL [\"/bin/sh\"]", "ok");
    let command = |text: &str| match kind(text) {
        Kind::Run(run) => run.command,
        Kind::Cmd(command) => command,
        other => panic!("{other:?}"),
    };
    let shell = |text: &str| Command::Shell(text.to_owned());
    let exec = |words: &[&str]| Command::Exec(words.iter().map(|w| w.to_string()).collect());
    let check = |text: &str, want: Command| assert_eq!(command(text), want, "{text}");
    check("RUN a  b\t", shell("a  b"));
    check("RUN a \\\n    # c\n\n  b # d", shell("a   b # d"));
    check("RUN [\"a\"]", exec(&["a"]));
    check("RUN [\"a\", \\\n \"b\"]", exec(&["a", "b"]));
    check("RUN []", exec(&[]));
    check("RUN ['a']", shell("['a']"));
    check("RUN [\"a\",]", shell("[\"a\",]"));
    check("CMD [\"a\"] # c", shell("[\"a\"] # c"));
    check("RUN [ -d x ] || y", shell("[ -d x ] || y"));
    check("RUN -- --x", shell("--x"));
    check("RUN --mount=target=/a --network=host [\"a\"]", exec(&["a"]));
    check("RUN a \\\\\n", shell("a \\\\"));
}

#[test]
fn copy_and_add() {
    check("COPY", "instr 2,5: COPY: expected SOURCE… DESTINATION");
    check("COPY a", "instr 2,6: COPY: expected SOURCE… DESTINATION");
    check("COPY [\"a\"]", "instr 2,6: COPY: expected SOURCE… DESTINATION");
    check("COPY []", "instr 2,6: COPY: expected SOURCE… DESTINATION");
    check("COPY [1, 2]", "ast 2,6: expected only strings in the JSON array");
    check("COPY --from=a --from=b x y", "instr 2,15: COPY: repeated option --from");
    check("COPY --checksum=x a b", "instr 2,6: COPY: invalid option --checksum");
    check("COPY --chown=a --chmod=b --link --parents --exclude=a --exclude=b --from=c x y z", "ok");
    check("ADD --from=x a b", "instr 2,5: ADD: invalid option --from");
    check("ADD --chown=a --chmod=b --link=false --exclude=a --checksum=c --keep-git-dir --unpack=true x y", "ok");
    check("COPY --link=maybe a b", "instr 2,6: COPY: expected --link, --link=true or --link=false");
    check("COPY a <<EOF\nEOF", "instr 2,6: COPY: expected a destination, not a heredoc");
    check("ADD <<A <<B\nA\nB", "instr 2,5: ADD: expected a destination, not a heredoc");
    check("COPY --exclude= --from= --chown= --chmod= a b", "ok");
    check("COPY --exclude a b", "instr 2,6: COPY: expected a value: --exclude=VALUE");
    check("COPY --parents=no a b", "instr 2,6: COPY: expected --parents, --parents=true or --parents=false");
    check("COPY --parents=TRUE --link=False a b", "ok");
    check("ADD --parents a b", "instr 2,5: ADD: invalid option --parents");
    check(
        "ADD --keep-git-dir= a b",
        "instr 2,5: ADD: expected --keep-git-dir, --keep-git-dir=true or --keep-git-dir=false",
    );
    check("COPY --from=$x a b", "ok");
    check("COPY [\"a\", null]", "ast 2,6: expected only strings in the JSON array");
    let transfer = |text: &str| match kind(text) {
        Kind::Copy(copy) => copy.transfer,
        Kind::Add(add) => add.transfer,
        other => panic!("{other:?}"),
    };
    let check = |text: &str, sources: &[&str], destination: &str| {
        let transfer = transfer(text);
        let shown: Vec<String> = transfer
            .sources
            .iter()
            .map(|source| match source {
                Source::Path(path) => path.clone(),
                Source::Heredoc(text, index) => format!("{text}={}", transfer.heredocs[*index].body.trim()),
            })
            .collect();
        assert_eq!(
            (shown.as_slice(), transfer.destination.as_str()),
            (sources.iter().map(|s| s.to_string()).collect::<Vec<_>>().as_slice(), destination),
            "{text}"
        );
    };
    check("COPY a 'b c' d", &["a", "'b", "c'"], "d");
    check("COPY [\"a b\", \"c\"]", &["a b"], "c");
    check("COPY [a, b]", &["[a,"], "b]");
    check("COPY <<A x <<-'B' /d\na\nA\n\tb\n\tB", &["<<A=a", "x", "<<-'B'=b"], "/d");
    check("COPY << A /d\na\nA", &["<<", "A"], "/d");
    check("COPY <<A <<A /d\na\nA\nb\nA", &["<<A=b", "<<A=b"], "/d");
    check("ADD <<A <<<B /d\nA", &["<<A=", "<<<B"], "/d");
    check("COPY [\"<<A\", \"b\"]", &["<<A"], "b");
}

#[test]
fn heredocs() {
    check("RUN <<EOF\nx", "ast 2,5: unterminated heredoc: expected EOF");
    check("RUN cat <<EOF\nFOO\n", "ast 2,9: unterminated heredoc: expected EOF");
    check("COPY <<EOF /x\nx", "ast 2,6: unterminated heredoc: expected EOF");
    check("RUN <<EOF\nFOO\nEOF\nFROM y", "ok");
    check("RUN echo $((1 << 2))", "ok");
    check("RUN cat <<A; cat <<B\na\nA\nb\nB", "ok");
    check("RUN cat <<'EOF' > x\nFOO \\\n# y\nEOF\nRUN y", "ok");
    check("RUN it's <<EOF", "ok");
    check("RUN [\"a\", \"<<EOF\"]", "ok");
    check("CMD cat <<EOF", "ok");
    check("ENV a=<<EOF", "ok");
    check("ONBUILD RUN <<EOF\nFOO\nEOF", "ok");
    check("ONBUILD RUN <<EOF\nFOO", "ast 2,13: unterminated heredoc: expected EOF");
    check("ONBUILD CMD <<EOF", "ok");
    check("FOO <<EOF\nBAR\nEOF", "instr 2,1: unknown instruction: FOO");
    check("RUN --mount=target=/x <<EOF\nFOO\nEOF", "ok");
    check("RUN --x <<EOF\nFOO\nEOF", "instr 2,5: RUN: invalid option --x");
    check("COPY <<A <<B /x\na\nA\nb\nB\nRUN y", "ok");
    check("RUN a \\\n<<EOF \\\nb\nFOO\nEOF", "ok");
    check("RUN cat <<${X:-\"a b\"}", "ast 2,9: malformed heredoc <<${X:-\"a: unterminated double quote");
    check("COPY <<- A /x\nFOO\nA", "instr 3,1: unknown instruction: FOO");
    check("COPY << A /x\nFOO\nA", "ok");
    check("RUN cat <<EOF\nFOO\nEOF \nEOF", "ok");
    check("RUN cat <<EOF\nFOO\n\tEOF\n", "ast 2,9: unterminated heredoc: expected EOF");
    check("RUN cat <<-EOF\nFOO\n EOF\n", "ast 2,9: unterminated heredoc: expected EOF");
    check("RUN cat <<-EOF\nFOO\n\t\tEOF\r\n", "ok");
    check("RUN cat <<EOF \\\n# c\nFOO\nEOF", "ok");
    check("RUN cat <<EOF # c\nFOO\nEOF", "ok");
    check("RUN cat <<''\nFOO", "instr 3,1: unknown instruction: FOO");
    check("RUN a<<EOF\nFOO", "instr 3,1: unknown instruction: FOO");
    check("RUN cat <<EOF | sh; cat <<E2&&x\nFOO\nEOF\nBAR\nE2", "ok");
    check("ADD <<EOF> /x\nFOO\nEOF", "ast 2,5: unterminated heredoc: expected EOF>");
    check("onbuild copy <<EOF /x\nFOO\nEOF", "ok");
    check("ONBUILD ONBUILD RUN <<EOF\nFOO\nEOF", "instr 2,9: ONBUILD is not allowed in ONBUILD");
    check("HEALTHCHECK CMD cat <<EOF", "ok");
}

#[test]
fn others() {
    check("EXPOSE", "instr 2,7: EXPOSE: expected PORT[/PROTOCOL]");
    check("EXPOSE nonsense $X", "ok");
    check("VOLUME", "instr 2,7: VOLUME: expected PATH");
    check("VOLUME []", "instr 2,8: VOLUME: expected PATH");
    check("VOLUME [\"\"]", "instr 2,8: VOLUME: expected PATH");
    check("VOLUME /a [\"b\"]", "ok");
    check("VOLUME [\"a\", \" \"]", "instr 2,8: VOLUME: expected PATH");
    check("VOLUME [1]", "ast 2,8: expected only strings in the JSON array");
    check("VOLUME --x a", "instr 2,8: VOLUME: invalid option --x");
    check("EXPOSE --x 80", "instr 2,8: EXPOSE: invalid option --x");
    check("USER --x y", "instr 2,6: USER: invalid option --x");
    check("USER -- --x", "ok");
    check("MAINTAINER --x y", "instr 2,12: MAINTAINER: invalid option --x");
    check("HEALTHCHECK FOO [1]", "ast 2,17: expected only strings in the JSON array");
    check("HEALTHCHECK NONE []", "ok");
    check("HEALTHCHECK --interval=5s", "instr 2,26: HEALTHCHECK: expected NONE or CMD COMMAND");
    check("HEALTHCHECK --interval= --retries= CMD\u{a0}a", "ok");
    check("HEALTHCHECK --interval=1s --interval=1s CMD a", "instr 2,27: HEALTHCHECK: repeated option --interval");
    check("HEALTHCHECK --retries=2147483648 CMD a", "instr 2,13: HEALTHCHECK: expected a number: --retries=3");
    check("HEALTHCHECK CMD --interval=1s a", "ok");
    check("WORKDIR", "instr 2,8: WORKDIR: expected DIRECTORY");
    check("WORKDIR /a b # c", "ok");
    check("WORKDIR --x /a", "instr 2,9: WORKDIR: invalid option --x");
    check("USER", "instr 2,5: USER: expected USER[:GROUP]");
    check("STOPSIGNAL", "instr 2,11: STOPSIGNAL: expected SIGNAL");
    check("STOPSIGNAL --x=y 9", "ok");
    check("STOPSIGNAL a b", "ok");
    check("MAINTAINER", "instr 2,11: MAINTAINER: expected NAME");
    check("MAINTAINER a <b@c>", "ok");
    check("HEALTHCHECK", "instr 2,12: HEALTHCHECK: expected NONE or CMD COMMAND");
    check("HEALTHCHECK none", "ok");
    check("HEALTHCHECK --interval=x NONE", "ok");
    check("HEALTHCHECK NONE x", "instr 2,18: HEALTHCHECK: expected nothing after NONE");
    check("HEALTHCHECK CMD", "instr 2,16: HEALTHCHECK: expected a command after CMD");
    check("HEALTHCHECK CMD []", "instr 2,17: HEALTHCHECK: expected a command after CMD");
    check("HEALTHCHECK CMD [1]", "ast 2,17: expected only strings in the JSON array");
    check("HEALTHCHECK foo", "instr 2,13: HEALTHCHECK: expected NONE or CMD COMMAND");
    check("HEALTHCHECK --interval=5m --timeout=3s --start-period=0 --start-interval=1ms --retries=0 cmd a", "ok");
    check(
        "HEALTHCHECK --interval=1us CMD a",
        "instr 2,13: HEALTHCHECK: expected a duration of at least 1 ms: --interval=30s",
    );
    check(
        "HEALTHCHECK --interval=-1s CMD a",
        "instr 2,13: HEALTHCHECK: expected a duration of at least 1 ms: --interval=30s",
    );
    check("HEALTHCHECK --retries=-1 CMD a", "instr 2,13: HEALTHCHECK: expected a number: --retries=3");
    check("HEALTHCHECK --retries=x CMD a", "instr 2,13: HEALTHCHECK: expected a number: --retries=3");
    check("HEALTHCHECK --x CMD a", "instr 2,13: HEALTHCHECK: invalid option --x");
    check("ONBUILD", "instr 2,8: ONBUILD: expected an instruction");
    check("ONBUILD ONBUILD RUN x", "instr 2,9: ONBUILD is not allowed in ONBUILD");
    check("ONBUILD from x", "instr 2,9: FROM is not allowed in ONBUILD");
    check("ONBUILD MAINTAINER x", "instr 2,9: MAINTAINER is not allowed in ONBUILD");
    check("ONBUILD FOO x", "ok");
    check("ONBUILD COPY --x a", "ok");
    check("ONBUILD ENV a", "ast 2,13: ENV: expected NAME=VALUE");
    check("ONBUILD RUN [1]", "ast 2,13: expected only strings in the JSON array");
    check("ONBUILD --x RUN y", "instr 2,9: ONBUILD: invalid option --x");
    check("ARG a=\"b c\" d", "ok");
}

#[test]
fn hints() {
    let hint = |text: &str| parse(text.as_bytes()).unwrap_err()[0].hint.clone().unwrap_or_default();
    let check = |text: &str, want: &str| assert_eq!(hint(&format!("FROM x\n{text}")), want, "{text}");
    check("RNU x", "did you mean RUN?");
    check("COPY --form=x a b", "did you mean --from=?");
    check("RUN\u{a0}x", "there is a no-break or other special space in it; use an ordinary one");
    check("ENV a=b c", "put a value with blanks in quotes");
    let after_run = parse(b"FROM x\nRUN a &&\n  make install").unwrap_err();
    assert_eq!(after_run[0].hint.as_deref(), Some("to continue the RUN above, end its last line with \\"));
}

#[test]
fn all_faults_are_shown() {
    let text = b"FROM x\nFOO\nRUN --x y\nENV a\nRUN good\n";
    let diagnostics = parse(text).unwrap_err();
    let e = diagnostic::error("Dockerfile", &diagnostics);
    assert_eq!(e.to_string(), "can't parse: Dockerfile:2,1: unknown instruction: FOO");
    let want = "    2 | FOO\n      | ^\nalso: Dockerfile:3,5: RUN: invalid option --x\nalso: Dockerfile:4,5: ENV: expected NAME=VALUE";
    assert_eq!(e.get_detail(), Some(want));
    let many = parse(format!("FROM x\n{}", "FOO\n".repeat(13)).as_bytes()).unwrap_err();
    assert!(diagnostic::error("-", &many).get_detail().unwrap().ends_with("\nalso: 2 more"));
    let empty = parse(b"# x").unwrap_err();
    assert_eq!(diagnostic::error("-", &empty).to_string(), "no instructions found: -");
    let large = parse(&vec![b'#'; MAX_SOURCE + 1]).unwrap_err();
    assert_eq!(diagnostic::error("f", &large).to_string(), "Dockerfile larger than 8388608 bytes: f");
}

#[test]
fn empty_lines_are_warned_about() {
    let file = parse(b"FROM x\nRUN a \\\n\n b").unwrap();
    assert_eq!(file.warnings, [Warning { line: 3, message: "empty line inside a continued instruction".into() }]);
}

#[test]
fn broken_arrays_are_warned_about() {
    let warns = |text: &str| match &parse(format!("FROM x\n{text}\n").as_bytes()).unwrap().warnings[..] {
        [] => false,
        [Warning { line: 2, message }] => message.contains("not a valid JSON"),
        other => panic!("{text}: {other:?}"),
    };
    for text in
        ["RUN ['a', 'b']", "CMD [\"a\", ]", "ENTRYPOINT [\"a\" \"b\"]", "COPY [\"a\", \"b\" /x", "VOLUME ['/a']"]
    {
        assert!(warns(text), "{text}");
    }
    for text in
        ["RUN [ \"$a\" = b ]", "RUN [[ a ]]", "CMD [\"a\"]", "COPY [ab] /x", "COPY [\"a\", \"b\"]", "ENV a=['b']"]
    {
        assert!(!warns(text), "{text}");
    }
}

#[test]
fn triggers() {
    assert!(matches!(parse_trigger("RUN <<X\na\nX").unwrap().kind, Kind::Run(run) if run.heredocs[0].body == "a\n"));
    let message = |text: &str| parse_trigger(text).unwrap_err()[0].message.clone();
    assert_eq!(message(""), "empty ONBUILD trigger");
    assert_eq!(message("FROM x"), "FROM is not allowed in ONBUILD");
    assert_eq!(message("FOO"), "unknown instruction: FOO");
    assert_eq!(message("ONBUILD RUN x"), "ONBUILD is not allowed in ONBUILD");
    assert_eq!(message("RUN x\nRUN y"), "expected only one instruction in ONBUILD");
}

#[test]
fn bytes_that_are_no_text() {
    let file = parse(b"FROM x\nRUN echo \xff\n").unwrap();
    assert_eq!(file.stages[0].instructions[0].text, "RUN echo \u{fffd}");
}

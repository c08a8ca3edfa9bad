//! Files nobody would write by hand: all short sequences of a vicious vocabulary, files made at random from valid
//! pieces, and files as large or deep as they get. Whatever comes in: no panic, places inside the text, and what parses
//! survives printing.

use std::time::{Duration, Instant};

use super::ast::{Dockerfile, Kind};
use super::lines::{Lines, Source};
use super::plan::{self, Options};
use super::platform::Platform;
use super::state::{Config, State};
use super::{dump, parse, print};
use crate::sys::time::of_this_thread;

/// Everything that must hold for any text; the tree if there is one.
fn examine(text: &str) -> Option<Dockerfile> {
    check_lines(text);
    let without_mark = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file = match parse(text.as_bytes()) {
        Ok(file) => file,
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty(), "{text:?}");
            for diagnostic in &diagnostics {
                assert!(
                    diagnostic.offset <= without_mark.len() && without_mark.is_char_boundary(diagnostic.offset),
                    "{text:?}"
                );
                assert!(
                    diagnostic.line >= 1
                        && diagnostic.col >= 1
                        && diagnostic.line <= without_mark.lines().count().max(1),
                    "{text:?}"
                );
            }
            super::diagnostic::error("Dockerfile", &diagnostics);
            return None;
        }
    };
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions).chain(&file.globals) {
        assert!(
            without_mark.get(instruction.span.clone()).is_some_and(|s| !s.is_empty()),
            "{text:?} {:?}",
            instruction.span
        );
        dump::instruction(instruction);
    }
    let printed = print::print(&file);
    let again =
        parse(printed.as_bytes()).unwrap_or_else(|diagnostics| panic!("{text:?} printed {printed:?}: {diagnostics:?}"));
    assert_eq!(dump::dump(&file), dump::dump(&again), "{text:?} printed {printed:?}");
    assert!(kinds(&file) == kinds(&again), "{text:?} printed {printed:?}");
    evaluate(&file);
    Some(file)
}

fn kinds(file: &Dockerfile) -> Vec<&Kind> {
    file.globals.iter().chain(file.stages.iter().flat_map(|stage| &stage.instructions)).map(|i| &i.kind).collect()
}

/// Pieces of logical lines stand in the source where they say.
fn check_lines(text: &str) {
    let source = Source::new(text.as_bytes());
    for escape in ['\\', '`'] {
        let mut lines = Lines::new(&source, escape);
        let mut last = 0;
        while let Some(line) = lines.next_logical() {
            let mut before = None;
            for (at, c) in line.text.char_indices() {
                let place = line.source_at(at);
                assert!(source.text()[place..].starts_with(c), "{text:?} {at}");
                assert!(before.is_none_or(|before| before < place), "{text:?} {at}");
                before = Some(place);
            }
            assert!(line.span.start >= last && line.span.end <= source.text().len(), "{text:?}");
            last = line.span.end;
        }
    }
}

/// Plans and evaluates; errors are fine.
fn evaluate(file: &Dockerfile) {
    let linux = Platform::linux("amd64", "");
    let options = Options { target: None, build_args: &[], build_platform: linux.clone(), target_platform: linux };
    let Ok(plan) = plan::plan(file, &options) else { return };
    for &index in &plan.order {
        let mut state = State::of_image(&[("A".into(), "a b".into())], Config::default(), file.escape).unwrap();
        for instruction in &file.stages[index].instructions {
            let _ = state.step(instruction, &plan.globals);
        }
    }
}

#[test]
fn short_sequences_of_vicious_words() {
    let words = [
        "FROM x\n",
        "RUN ",
        "COPY ",
        "ENV ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "\n",
        "\\\n",
        "\\",
        "`",
        "# escape=`\n",
        "#",
        "<<A",
        "<<-'A'",
        "A",
        "A\n",
        "\t",
        " ",
        "\r\n",
        "--",
        "--from=",
        "--mount=",
        "=",
        "'",
        "\"",
        "[",
        "[\"a\"]",
        ",",
        "]",
        "$",
        "${",
        "}",
        ":-",
        "/",
        "é",
        "\u{a0}",
        "\u{feff}",
        ";",
        "CMD",
    ];
    let mut accepted = 0;
    for a in words {
        for b in words {
            for c in words {
                accepted += usize::from(examine(&format!("FROM x\n{a}{b}{c}")).is_some());
            }
            examine(&format!("{a}{b}"));
        }
    }
    assert!(accepted > 5000, "{accepted}");
}

/// A small generator of numbers (xorshift), so that failures can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn some(&mut self, most: usize, from: &[&str], between: &str) -> String {
        let count = 1 + self.below(most);
        (0..count).map(|_| self.pick(from)).collect::<Vec<_>>().join(between)
    }
}

/// A valid file.
fn generate(random: &mut Random) -> String {
    let escape = if random.below(4) == 0 { "`" } else { "\\" };
    let mut text = if escape == "`" {
        "# escape=`\n".to_owned()
    } else {
        random.pick(&["", "\u{feff}", "# syntax=x\n"]).to_owned()
    };
    for _ in 0..random.below(3) {
        text += random.pick(&["ARG A=1\n", "arg B C='x y'\n", "# comment\n", "\n"]);
    }
    for stage in 0..1 + random.below(3) {
        text += random.pick(&["FROM ", "from --platform=linux ", "  FROM\t"]);
        text += &format!("img:$A AS s{stage}{}", random.pick(&["\n", "\r\n", " \n"]));
        for _ in 0..random.below(8) {
            text += &generate_instruction(random, escape);
        }
    }
    text
}

fn generate_instruction(random: &mut Random, escape: &str) -> String {
    let blank = match random.below(6) {
        0 => format!(" {escape}\n"),
        1 => format!(" {escape} \r\n# comment\n\n  "),
        2 => "\t ".to_owned(),
        _ => " ".to_owned(),
    };
    let words =
        ["a", "$A", "${B:-x y}", "'q r'", "\"s\"", "x#", "é", "--x", "[", "\\n", "`t", "$", "a=b", "<", "*.c", "/u/"];
    let paths = ["a", "b/c", "$A", "*.[ch]", "--x", "é", "x#"];
    let pairs = ["a=b", "c='d e'", "f=\"g $A\"", "h=", "i=j=k", "\"l m\"=n", "--o=p"];
    let flag = |random: &mut Random, flags: &[&str]| match random.below(3) {
        0 => format!("{}{blank}", random.pick(flags)),
        _ => String::new(),
    };
    let body = match random.below(7) {
        0 => format!("ENV{blank}-- {}", random.some(3, &pairs, &blank)),
        1 => format!("LABEL{blank}name{blank}{}", random.some(3, &words, &blank)),
        2 => {
            let flags = flag(random, &["--mount=type=cache,target=/x", "--network=none", "--device='a b'"]);
            format!("RUN{blank}{flags}-- {}", random.some(5, &words[..14], &blank).replace("<<", "<"))
        }
        3 => {
            let flags =
                flag(random, &["--from=s0", "--chown=1:2 --chmod=u+x", "--exclude=a --exclude='b c'", "--link"]);
            format!("COPY{blank}{flags}-- {}{blank}{}", random.some(3, &paths, &blank), random.pick(&paths))
        }
        4 => random
            .pick(&[
                "CMD [\"a\", \"b c\"]",
                "SHELL [\"x\"]",
                "ENTRYPOINT x y",
                "VOLUME /a /b",
                "RUN []",
                "WORKDIR /x//y/ ",
            ])
            .to_owned(),
        5 => {
            let marker = random.pick(&["<<E", "<<-E", "<<'E'", "3<<E"]);
            let lines = random.some(3, &["x", "\ty\\", "# z", "", "FROM q", "$A `"], "\n");
            format!(
                "{}\n{lines}\nE",
                random.pick(&["RUN M", "RUN cat M > x", "COPY M a /b", "ONBUILD RUN M"]).replace('M', marker)
            )
        }
        _ => random
            .pick(&[
                "HEALTHCHECK NONE",
                "HEALTHCHECK --interval=90s --retries=3 CMD x y",
                "EXPOSE 80 $A/udp",
                "USER a:b",
                "STOPSIGNAL 9",
                "ONBUILD COPY a b",
                "MAINTAINER x <y>",
            ])
            .to_owned(),
    };
    format!("{body}\n{}", random.pick(&["", "\n", "# comment\n", " \t\n"]))
}

#[test]
fn generated_files_survive_printing() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..1500 {
        let text = generate(&mut random);
        assert!(examine(&text).is_some(), "round {round}: {text}\n{:?}", parse(text.as_bytes()));
    }
}

/// A debug build is slower than what is shipped: only the order of magnitude.
const GENEROUS: Duration = Duration::from_secs(60);

#[test]
fn large_files_end_in_a_result() {
    let check = |text: String, good: bool| {
        let start = of_this_thread();
        let parsed = parse(text.as_bytes());
        assert_eq!(parsed.is_ok(), good, "{:.60}", text);
        if let Ok(file) = &parsed {
            evaluate(file);
            print::print(file);
        }
        assert!(of_this_thread() - start < GENEROUS, "{:.60}", text);
    };
    let n = 100_000;
    check(format!("FROM x\n{}", "RUN echo a b c\n".repeat(n)), true);
    check(format!("FROM x\nRUN a{}", " \\\n b".repeat(n)), true);
    check(format!("FROM x\nRUN a \\\n{}b", "# c\n\n".repeat(n)), true);
    check(format!("FROM x\nRUN {}", "x".repeat(1 << 20)), true);
    check(format!("FROM x\nENV {}", "a=b ".repeat(n)), true);
    check(format!("FROM x\nENV a={}{}", "${a:-".repeat(n), "}".repeat(n)), true);
    check(format!("FROM x\n{}", "ENV a=$a$a$a$a\n".repeat(n)), true);
    check(format!("FROM x\nRUN {}", "[".repeat(n)), true);
    check(format!("FROM x\nRUN {}{}", "[".repeat(9000), "]".repeat(9000)), false);
    check(format!("FROM x\n{}RUN x", "ONBUILD ".repeat(n)), false);
    check(format!("FROM x\n{}", "RUN a <<A; <<B;\n".repeat(n)) + "A\n", false);
    check(format!("FROM x\n{}", "RUN <<A\na\nA\n".repeat(n)), true);
    check(format!("FROM x\nRUN {}\n{}", "<<A ".repeat(10_000), "A\n".repeat(10_000)), true);
    check(format!("FROM x\nCOPY {} d\n{}", "<<A ".repeat(2_000), "A\n".repeat(2_000)), true);
    check("FOO\n".repeat(n), false);
    check((0..20_000).map(|i| format!("FROM x AS s{i}\nCOPY --from=0 a b\n")).collect(), true);
    check(format!("FROM x\n{}", format!("RUN cat <<A {}\n", "${a/".repeat(64)).repeat(2_000)), true);
    // A circle of stages, which the plan refuses.
    check((0..20_000).map(|i| format!("FROM x\nCOPY --from={} a b\n", (i + 1) % 20_000)).collect(), true);
    check(
        (0..20_000)
            .map(|i| format!("FROM {} AS s{i}\n", if i == 0 { "x".into() } else { format!("s{}", i - 1) }))
            .collect(),
        true,
    );
    check("\\\n".repeat(n), false);
    check("#".repeat(8 << 20), false);
    check(format!("FROM x\nEXPOSE {}", "0-65535 ".repeat(30)), true);
    check(format!("FROM x\nRUN {} x", "--device=a ".repeat(n)), true);
}

/// Prints what a 100,000-line file costs: `cargo test --release speed -- --ignored --nocapture`. The goal is 100 ms.
#[test]
#[ignore = "a measurement, not a test"]
fn speed_of_parsing() {
    let block = "RUN apt-get update && \\\n    apt-get install -y foo\nENV A=1 B=\"two words\"\nCOPY --from=x a b /d/\n# comment\n\nLABEL a.b=\"x y\"\nARG X=1\nWORKDIR /a/b\nCMD [\"a\", \"b\"]\n";
    let text = format!("FROM x\n{}", block.repeat(10_000));
    for _ in 0..5 {
        let start = Instant::now();
        let file = parse(text.as_bytes()).unwrap();
        let lines = text.lines().count();
        eprintln!(
            "{lines} lines, {} bytes, {} instructions: {:?}",
            text.len(),
            file.stages[0].instructions.len(),
            start.elapsed()
        );
    }
}

//! Whose /tmp do the RUN of a file see? Theirs as ch-run has it is the host's (manual page), so what COPY puts there, and
//! what a later stage is to take from there, would be lost. A file that does such things was written for builders where
//! /tmp is the image's, and gets that; all others keep the host's.
//!
//! Told from the text: paths in variables count for nothing.

use super::ast::{Dockerfile, Instruction, Kind, Run, Source};
use super::mount;
use super::parse::parse_trigger;

/// Whether a file copies to or from /tmp, mounts something from there, or works there.
pub fn is_used(file: &Dockerfile) -> bool {
    file.stages.iter().flat_map(|stage| &stage.instructions).any(uses)
}

fn uses(instruction: &Instruction) -> bool {
    match &instruction.kind {
        Kind::Copy(copy) => {
            let taken = |source: &Source| matches!(source, Source::Path(path) if is_in(path));
            is_at(&copy.transfer.destination) || copy.from.is_some() && copy.transfer.sources.iter().any(taken)
        }
        Kind::Add(add) => is_at(&add.transfer.destination),
        Kind::Workdir(path) => is_at(path),
        Kind::Run(Run { mounts, .. }) => mounts
            .iter()
            .any(|text| mount::from(text).is_some() && mount::source(text).is_some_and(|path| is_in(&path))),
        // Those of a base image are known too late.
        Kind::Onbuild(onbuild) => parse_trigger(&onbuild.trigger).is_ok_and(|trigger| uses(&trigger)),
        _ => false,
    }
}

/// Where the place does not depend on a working directory.
fn is_at(path: &str) -> bool {
    path.starts_with('/') && is_in(path)
}

/// Of a path from the root directory.
pub fn is_in(path: &str) -> bool {
    path.split('/').find(|part| !matches!(*part, "" | ".")) == Some("tmp")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    #[test]
    fn files() {
        let check = |text: &str, want: bool| {
            let file = parse::parse(format!("FROM a\n{text}\nFROM b\n").as_bytes()).unwrap();
            assert_eq!(is_used(&file), want, "{text}");
        };
        check("COPY x /tmp", true);
        check("COPY x //./tmp/", true);
        check("COPY [\"x y\", \"/tmp/x\"]", true);
        check("COPY <<x /tmp/\na\nx", true);
        check("ADD http://h/x /tmp/x/", true);
        check("COPY --from=a /tmp/x /", true);
        check("COPY --from=a y tmp/x /", true);
        check("WORKDIR /tmp/build", true);
        check("RUN --mount=from=a,source=/tmp/x,target=/x true", true);
        check("RUN --mount=type=cache,from=a,src=tmp,target=/x true", true);
        check("ONBUILD COPY x /tmp/", true);
        for text in [
            "RUN touch /tmp/x",
            "COPY /tmp/x /",
            "COPY x tmp/",
            "COPY x /tmp2/",
            "COPY x $d",
            "WORKDIR tmp",
            "RUN --mount=source=/tmp/x,target=/x true",
            "RUN --mount=target=/tmp/x true",
            "RUN --mount=type=tmpfs,target=/tmp true",
            "ENV A=/tmp",
            "ONBUILD RUN touch /tmp/x",
        ] {
            check(text, false);
        }
    }
}

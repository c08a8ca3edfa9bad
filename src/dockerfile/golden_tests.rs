//! Whole files and what becomes of them: `tests/dockerfile/*.case`. A case is a Dockerfile, a line `----`, then its tree
//! or its error as users see it. With `GOLDEN=write` in the environment the second part is written anew; read the diff.

use std::path::PathBuf;
use std::{env, fs};

use super::{diagnostic, dump, parse};

const SEPARATOR: &str = "\n----\n";

#[test]
fn cases() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/dockerfile");
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "case"));
    paths.sort();
    assert!(paths.len() >= 20, "only {} cases", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let case = fs::read_to_string(&path).unwrap();
        let (text, want) = case.split_once(SEPARATOR).unwrap_or((case.trim_end_matches('\n'), ""));
        let got = shown(&format!("{text}\n"));
        if got == want {
            continue;
        }
        match env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            true => fs::write(&path, format!("{text}{SEPARATOR}{got}")).unwrap(),
            false => wrong.push(format!("{}: got\n{got}", path.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn shown(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(file) => {
            let warnings = file.warnings.iter().map(|w| format!("warning: line {}: {}\n", w.line, w.message));
            warnings.collect::<String>() + &dump::dump(&file)
        }
        Err(diagnostics) => {
            let e = diagnostic::error("Dockerfile", &diagnostics);
            let detail = e.get_detail().map(|detail| format!("{detail}\n")).unwrap_or_default();
            let hint = e.get_hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            format!("error: {e}\n{detail}{hint}")
        }
    }
}

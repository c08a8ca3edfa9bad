//! Which crates is this binary made of, and under which licences? For `--version -v` and `--generate sbom`.
//!
//! The table is a file, which a test compares with what cargo links; nothing of it is looked up at run time.

use serde_json::{Value, json};

/// A line each: name, version, licence (SPDX expression).
const TABLE: &str = include_str!("crates.txt");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Name, version, licence.
fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    TABLE.lines().filter_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        let (version, licence) = rest.split_once(' ')?;
        Some((name, version, licence))
    })
}

/// What `--version` prints: the number alone, or with `-v` all that tells one binary from another.
pub(super) fn version(verbose: bool) -> String {
    if !verbose {
        return format!("{VERSION}\n");
    }
    let libc = if cfg!(target_env = "musl") { "musl" } else { "glibc" };
    // `make` says it; nothing of the repository is needed to compile.
    let commit = option_env!("CH_IMAGE_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let mut text = format!(
        "ch-image {VERSION}\ncommit: {commit}\ntarget: {}-linux-{libc}\nlicence: {}\ncrates:\n",
        std::env::consts::ARCH,
        env!("CARGO_PKG_LICENSE")
    );
    for (name, version, licence) in all() {
        text.push_str(&format!("  {name} {version} ({licence})\n"));
    }
    text
}

/// The same as a CycloneDX document (specification 1.5), a software bill of materials.
pub(super) fn sbom() -> String {
    let component = |kind: &str, (name, version, licence): (&str, &str, &str)| {
        json!({
            "type": kind,
            "bom-ref": format!("{name}@{version}"),
            "name": name,
            "version": version,
            "purl": format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
            "licenses": [{"expression": licence}],
        })
    };
    let crates: Vec<Value> = all().map(|one| component("library", one)).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component("application", ("ch-image", VERSION, env!("CARGO_PKG_LICENSE")))},
        "components": crates,
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_are_read() {
        assert_eq!(all().count(), TABLE.lines().count());
        assert_eq!(version(false), format!("{VERSION}\n"));
        let long = version(true);
        assert!(long.contains("\n  lexopt ") && long.contains("\ncommit: "), "{long}");
        let document: Value = serde_json::from_str(&sbom()).unwrap();
        assert_eq!(document["components"].as_array().unwrap().len(), all().count());
        assert_eq!(document["components"][0]["type"], "library");
    }
}

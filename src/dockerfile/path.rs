//! Paths inside an image as text: `/` separates, nothing is looked up (A.11 WORKDIR, A.13 no. 1).

/// Without `.`, `..`, doubled or trailing slashes; absolute paths end at the root. Empty is `.`.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// The directory after `WORKDIR to`: absolute exactly as written, relative joined and cleaned, empty unchanged.
pub fn workdir(current: &str, to: &str) -> String {
    match to {
        "" => current.to_owned(),
        to if to.starts_with('/') => to.to_owned(),
        to => clean(&format!("/{current}/{to}")),
    }
}

/// Absolute and clean.
pub fn absolute(workdir: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("/{workdir}/{path}")) }
}

/// A destination of COPY: absolute and clean, but a trailing `/` or `/.`, which says that it is a directory, stays as
/// `/`.
pub fn destination(workdir: &str, path: &str) -> String {
    let mut full = absolute(workdir, path);
    let directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    if directory && full != "/" {
        full.push('/');
    }
    full
}

/// The last component; of the root nothing.
pub fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        let check = |path: &str, want: &str| assert_eq!(clean(path), want, "{path}");
        check("", ".");
        check(".", ".");
        check("/", "/");
        check("//a//b/./c/", "/a/b/c");
        check("/../..", "/");
        check("a/../..", "..");
        check("../../a", "../../a");
        check("a/..", ".");
        check("/a/../b", "/b");
    }

    #[test]
    fn joining() {
        let check = |to: &str, want: &str| assert_eq!(workdir("/a/b", to), want, "{to}");
        check("", "/a/b");
        check("c", "/a/b/c");
        check("../c/", "/a/c");
        check("/x//y/", "/x//y/");
        check("../../../..", "/");
        assert_eq!(workdir("", "x"), "/x");
        let check = |to: &str, want: &str| assert_eq!(destination("/w", to), want, "{to}");
        check("a", "/w/a");
        check("a/", "/w/a/");
        check("a/.", "/w/a/");
        check(".", "/w/");
        check("./", "/w/");
        check("", "/w/");
        check("/", "/");
        check("/x/../y", "/y");
        check("..", "/");
        assert_eq!((base("/a/b/"), base("/"), base("a")), ("b", "", "a"));
    }
}

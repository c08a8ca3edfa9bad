//! How do programs of the container get at the user's display (X11)?
//!
//! Its socket is in the host's /tmp, which the container has, or is a network connection. What a program needs besides is the key, in a
//! file that `$XAUTHORITY` names, often below /run: it is bound at its own path, unless something is there. Without that
//! variable it is `~/.Xauthority`, which comes with the home directory.

use std::path::{Component, Path, PathBuf};

use super::env::Environment;
use super::{Bind, Home, Need, mountpoint};

/// The file of the host, if there is a display.
pub fn key(host: &Environment) -> Option<PathBuf> {
    let value = |name: &str| host.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, v)| v);
    value("DISPLAY")?;
    let path = PathBuf::from(value("XAUTHORITY")?);
    let is_plain = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
    (is_plain && path.is_file()).then_some(path)
}

/// What to bind of it in the container whose tree is at `root`.
pub fn bind(host: &Environment, root: &Path, home: Option<&Home>, private_tmp: bool) -> Option<Bind> {
    let path = key(host)?;
    // Seen by what is bound anyway.
    let comes_with = |dir: &str| path.starts_with(dir) && !(dir == "/tmp" && private_tmp);
    if ["/tmp", "/dev", "/proc", "/sys"].into_iter().any(comes_with) {
        return None;
    }
    let is_at_home =
        home.is_some_and(|home| path.starts_with(&home.source) && home.source == Path::new("/home").join(&home.user));
    if is_at_home || mountpoint::locate(root, &path).is_ok_and(|target| target.exists()) {
        return None;
    }
    Some(Bind { read_only: true, need: Need::IfSource, ..Bind::new(&path, &path) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_key_is_bound_where_it_is_missing() {
        let base = std::env::temp_dir().join(format!("ch-display-test-{}", std::process::id()));
        let root = base.join("image");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "").unwrap();
        let home = |source: &str, user: &str| Home { source: source.into(), user: user.into() };
        let check = |variables: &[(&str, &str)], home: Option<&Home>, private_tmp: bool, want: Option<&str>| {
            let host: Environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
            let got = bind(&host, &root, home, private_tmp);
            let want = want.map(|path| Bind { read_only: true, need: Need::IfSource, ..Bind::new(path, path) });
            assert_eq!(got, want, "{variables:?}");
        };
        let display = ("DISPLAY", ":0");
        // Files that every machine has.
        check(&[display, ("XAUTHORITY", "/etc/group")], None, false, Some("/etc/group"));
        check(&[display, ("XAUTHORITY", "/etc/passwd")], None, false, None);
        check(&[display, ("XAUTHORITY", "/etc")], None, false, None);
        check(&[display, ("XAUTHORITY", "/etc/../etc/group")], None, false, None);
        check(&[display, ("XAUTHORITY", "/nowhere")], None, false, None);
        check(&[display, ("XAUTHORITY", "etc/group")], None, false, None);
        check(&[("DISPLAY", ""), ("XAUTHORITY", "/etc/group")], None, false, None);
        check(&[("XAUTHORITY", "/etc/group")], None, false, None);
        check(&[display], None, false, None);
        check(&[display, ("XAUTHORITY", "/proc/version")], None, false, None);
        check(&[display, ("XAUTHORITY", "/etc/group")], Some(&home("/etc", "me")), false, Some("/etc/group"));
        fs::remove_dir_all(base).unwrap();
    }
}

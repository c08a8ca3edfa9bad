//! What do the files of images that Apptainer or enroot has made say about how to run them? Text in, plain data out: no
//! script is run, so what a script computes is not known.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::env::{Expand, Origin, Variables};
use crate::error::Result;
use crate::log::debug;

/// Apptainer's: scripts of the environment (`*.sh`, in order of their names), the program that runs the image's command,
/// and labels.
pub const SCRIPTS: &str = "/.singularity.d/env";
pub const RUNSCRIPT: &str = "/.singularity.d/runscript";
pub const LABELS: &str = "/.singularity.d/labels.json";
/// enroot's: a script that runs the image's command, and the environment.
pub const RC: &str = "/etc/rc";
pub const ENVIRONMENT: &str = "/etc/environment";

/// `PATH` where Apptainer's scripts begin.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The texts of an image; `None`: it has no such file, or it does not matter.
#[derive(Debug, Default)]
pub struct Files {
    pub scripts: Option<Vec<String>>,
    pub has_runscript: bool,
    pub labels: Option<String>,
    pub rc: Option<String>,
    pub environment: Option<String>,
}

/// Who made the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    Apptainer,
    Enroot,
}

/// What they say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// `None`: nobody that is known here.
    pub maker: Option<Maker>,
    /// Assignments `NAME=VALUE`, the value perhaps in single quotes, and with `$NAME`; `None`: no file says any.
    pub env: Option<Vec<String>>,
    pub entrypoint: Vec<String>,
    pub cwd: Option<String>,
    pub labels: BTreeMap<String, String>,
}

impl Foreign {
    pub fn of(files: &Files) -> Foreign {
        let env = match (&files.scripts, &files.environment) {
            (Some(scripts), _) => Some(scripts.iter().flat_map(|script| exported(script)).collect()),
            (None, Some(text)) => Some(assigned(text)),
            (None, None) => None,
        };
        let labels = files.labels.as_deref().map_or_else(BTreeMap::new, labels);
        let is_apptainer = files.scripts.is_some() || files.has_runscript;
        let mut foreign =
            Foreign { maker: is_apptainer.then_some(Maker::Apptainer), env, labels, ..Foreign::default() };
        if files.has_runscript {
            foreign.entrypoint = vec![RUNSCRIPT.to_owned()];
        } else if let Some(rc) = &files.rc {
            foreign.maker = foreign.maker.or(Some(Maker::Enroot));
            foreign.entrypoint = vec!["/bin/sh".to_owned(), RC.to_owned()];
            foreign.cwd = changed_to(rc);
        }
        foreign
    }

    /// The variables as they are after all assignments.
    pub fn variables(&self) -> Result<Vec<(String, String)>> {
        let mut all = Variables::default();
        let beginning = Origin::Program;
        all.set(OsStr::new("PATH"), OsStr::new(PATH), &beginning);
        for line in self.env.iter().flatten() {
            all.assign(OsStr::new(line), Expand::Yes, &Origin::Image)?;
        }
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let said = all.into_list().into_iter().filter(|variable| variable.origin != beginning);
        Ok(said.map(|variable| (text(variable.name), text(variable.value))).collect())
    }
}

/// What the lines `export NAME=VALUE` of a script say. Only plain values and defaults (`${NAME:-"VALUE"}`).
fn exported(script: &str) -> Vec<String> {
    let assignment = |line: &str| -> Option<String> {
        let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
        let value = quoted(value).unwrap_or_else(|| value.to_owned());
        let default = value.strip_prefix(&format!("${{{name}:-")).and_then(|rest| rest.strip_suffix('}'));
        let value = default.map_or(value.clone(), |default| quoted(default).unwrap_or_else(|| default.to_owned()));
        let is_plain =
            !value.contains(['`', '(', '{']) && (value.starts_with('\'') || !value.contains(['"', ';', '&']));
        (is_name(name) && is_plain).then(|| format!("{name}={value}"))
    };
    script.lines().filter_map(assignment).collect()
}

/// The lines of a file as pam_env(8) reads it: `NAME=VALUE`, perhaps with `export`, quotes and comments.
fn assigned(text: &str) -> Vec<String> {
    let assignment = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        is_name(name).then(|| format!("{name}={}", quoted(value).as_deref().unwrap_or(value)))
    };
    text.lines().filter_map(assignment).collect()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What is between double quotes.
fn quoted(text: &str) -> Option<String> {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(str::to_owned)
}

/// The directory that enroot's script begins in: `cd "/DIR" && …`
fn changed_to(rc: &str) -> Option<String> {
    let word = rc.lines().find_map(|line| line.trim_start().strip_prefix("cd "))?.trim_start();
    let dir = match word.strip_prefix('"') {
        Some(rest) => rest.split_once('"')?.0,
        None => word.split([' ', ';', '&']).next()?,
    };
    (dir.starts_with('/') && !dir.contains(['$', '`', '\\'])).then(|| dir.to_owned())
}

/// An object of strings; anything else is not worth an error.
fn labels(text: &str) -> BTreeMap<String, String> {
    serde_json::from_str(text).unwrap_or_else(|e| {
        debug!("{LABELS} of the image: {e}");
        BTreeMap::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_from_scripts() {
        let check = |line: &str, want: &[&str]| assert_eq!(exported(line), want, "{line}");
        check("export PATH=\"/usr/bin:/bin\"", &["PATH=/usr/bin:/bin"]);
        check("  export A=\"${A:-\"b c\"}\"", &["A=b c"]);
        check("export A=b\nexport C='d e'\n# export X=y\nX=y", &["A=b", "C='d e'"]);
        check("export PATH=/opt/bin:$PATH", &["PATH=/opt/bin:$PATH"]);
        check("export A=$(date)\nexport B=`date`\nexport =x\nexport a-b=x\nexport D=${E%x}\nexport F=1; exit", &[]);
    }

    #[test]
    fn lines_of_pam_are_read() {
        let check = |text: &str, want: &[&str]| assert_eq!(assigned(text), want, "{text}");
        check("PATH=\"/usr/bin:/bin\"\n", &["PATH=/usr/bin:/bin"]);
        check("# A=b\n\nexport A=b\nB='c d'\nC=two words\nD=\nno\n=x\na b=c", &["A=b", "B='c d'", "C=two words", "D="]);
    }

    #[test]
    fn working_directories_are_read_from_rc() {
        let check = |rc: &str, want: Option<&str>| assert_eq!(changed_to(rc).as_deref(), want, "{rc}");
        check("mkdir -p \"/w d\" 2> /dev/null\ncd \"/w d\" && unset OLDPWD || exit 1\n", Some("/w d"));
        check("  cd /w && exit\n", Some("/w"));
        check("cd /w; x\ncd /other\n", Some("/w"));
        check("cd \"$HOME\"\n", None);
        check("cd w\n", None);
        check("cd \"/w\n", None);
        check("exec \"$@\"\n", None);
        check("", None);
    }

    #[test]
    fn images_of_apptainer_and_enroot() {
        let own = |text: &str| Some(text.to_owned());
        let pairs = |foreign: &Foreign| {
            let pairs = foreign.variables().unwrap();
            pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let scripts = ["export PATH=\"/opt/bin:$PATH\"", "export A='x y'\nexport B=$A:$NONE\nexport C=$(id)"];
        let apptainer = Foreign::of(&Files {
            scripts: Some(scripts.map(str::to_owned).to_vec()),
            has_runscript: true,
            labels: own(r#"{"maintainer": "me"}"#),
            rc: own("cd /w"),
            environment: own("A=of pam\n"),
        });
        assert_eq!((apptainer.maker, &apptainer.cwd), (Some(Maker::Apptainer), &None));
        assert_eq!(apptainer.entrypoint, ["/.singularity.d/runscript"]);
        assert_eq!(pairs(&apptainer), [&format!("PATH=/opt/bin:{PATH}"), "A=x y", "B=x y"]);
        assert_eq!(apptainer.labels["maintainer"], "me");
        let enroot = Foreign::of(&Files {
            rc: own("cd \"/w\"\nexec \"$@\"\n"),
            environment: own("A=b c\n"),
            labels: own("{"),
            ..Files::default()
        });
        assert_eq!((enroot.maker, enroot.cwd.as_deref()), (Some(Maker::Enroot), Some("/w")));
        assert_eq!(enroot.entrypoint, ["/bin/sh", "/etc/rc"]);
        assert_eq!(pairs(&enroot), ["A=b c"]);
        assert_eq!(Foreign::of(&Files::default()), Foreign::default());
        let neither = Foreign::of(&Files { environment: own("A=b"), ..Files::default() });
        assert_eq!((neither.maker, pairs(&neither)), (None, vec!["A=b".to_owned()]));
    }
}

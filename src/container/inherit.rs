//! Which variables does ch-run's command get: of the host's environment, of the image's, of what the user said?
//!
//! Pure: all that has to be read is read before. The tables here are those of the README.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::env::{self, Environment, Expand, Origin, Variable, Variables};
use crate::error::{Error, Result};

/// What the environment begins with (`--env`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The host's variables without those that break programs of an image, and over them the image's.
    Image,
    /// The host's variables as they are, as the original has it.
    Host,
    /// The same, and nothing is said about what may break: scripts were written for it.
    Original,
    /// The image's variables, and of the host's only those that a job, a terminal and the network need.
    Clean,
}

impl Preset {
    pub fn parse(text: &OsStr) -> Option<Preset> {
        match text.to_str() {
            Some("image") => Some(Preset::Image),
            Some("host") => Some(Preset::Host),
            Some("clean") => Some(Preset::Clean),
            Some(_) | None => None,
        }
    }
}

/// Of the batch system and whoever started this process: they are about this process alone, so the host's values win.
const LAUNCHER: &[&str] = &[
    "SLURM_*",
    "SLURMD_*",
    "PMI_*",
    "PMI2_*",
    "PMIX_*",
    "PALS_*",
    "ALPS_*",
    "FLUX_*",
    "PBS_*",
    "LSB_*",
    "OMPI_*",
    "PRTE_*",
    "HYDI_*",
    "HYDRA_*",
    "MPI_LOCALNRANKS",
    "MPI_LOCALRANKID",
    "MPIEXEC_*",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
];

/// What else `--env clean` lets in: terminal, language, user, display, proxies, threads.
const SESSION: &[&str] = &[
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "USER",
    "LOGNAME",
    "DISPLAY",
    "XAUTHORITY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "OMP_*",
];

/// Where the host's programs find libraries, modules and what to do at their start. Those of an image take them for
/// their own, and fail or do something else.
const BREAKERS: &[&str] = &[
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LD_AUDIT",
    "GCONV_PATH",
    "LOCPATH",
    "PYTHON*",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "R_HOME",
    "R_LIBS",
    "R_LIBS_*",
    "RUBYLIB",
    "RUBYOPT",
    "BASH_ENV",
    "ENV",
];

/// As with Docker, for images that say nothing.
const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One of the image's own variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfImage {
    /// Of its configuration: the value is what it is.
    Exact(OsString, OsString),
    /// A line of a script or of a file: `NAME=VALUE`, with quotes, and `$NAME` for what is there already.
    Line(OsString),
}

/// What is known of the host and the image.
pub struct Sources<'a> {
    pub host: Environment,
    pub image: Vec<OfImage>,
    /// Where the home directory is mounted.
    pub home: Option<String>,
    /// As the command sees it.
    pub uid: u32,
    /// Whether a path will be there in the container.
    pub has: &'a dyn Fn(&Path) -> bool,
}

/// What the user or the site wants changed, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// `NAME=VALUE`, with quotes and `$`.
    Assign {
        text: OsString,
        origin: String,
    },
    /// The same for each part of a file.
    Lines {
        text: Vec<u8>,
        end: u8,
        path: String,
    },
    /// Nothing in the value has a meaning.
    Set {
        name: OsString,
        value: OsString,
        origin: String,
    },
    /// What the host has, whatever the preset.
    FromHost {
        glob: OsString,
    },
    /// The image's variables, with quotes and `$`.
    Image(Vec<OsString>),
    Unset {
        glob: OsString,
    },
}

/// The whole environment, and what was decided on the way.
#[derive(Debug, Default)]
pub struct Composed {
    pub variables: Vec<Variable>,
    /// Names of the host's variables that did not get in because they break programs of images.
    pub left_out: Vec<OsString>,
    /// Variables that did get in, each with a path in it that is not there.
    pub doubtful: Vec<(OsString, OsString)>,
}

/// The environment of the command.
pub fn compose(preset: Preset, sources: &Sources, edits: &[Edit], expand: Expand) -> Result<Composed> {
    let mut all = Variables::default();
    let mut composed = Composed::default();
    for (name, value) in sources.host.iter().filter(|(name, _)| is_name(name)) {
        match fate(preset, name, value, sources) {
            Fate::Inherited => all.set(name, value, &Origin::Host),
            Fate::Breaks => composed.left_out.push(name.clone()),
            Fate::NotOurs => {}
        }
    }
    if !matches!(preset, Preset::Host | Preset::Original) {
        if all.get(OsStr::new("HOME")).is_none() {
            all.set(OsStr::new("HOME"), OsStr::new(if sources.uid == 0 { "/root" } else { "/" }), &Origin::Program);
        }
        all.set(OsStr::new("PATH"), OsStr::new(STANDARD_PATH), &Origin::Program);
        set_image(&mut all, &sources.image)?;
    }
    if let Some(home) = &sources.home {
        all.set(OsStr::new("HOME"), OsStr::new(home), &Origin::Program);
    }
    all.add_bin();
    for edit in edits {
        apply(&mut all, edit, &sources.host, expand)?;
    }
    all.set(OsStr::new("CH_RUNNING"), OsStr::new("Weird Al Yankovic"), &Origin::Program);
    composed.variables = all.into_list();
    composed.variables.retain(|variable| is_name(&variable.name));
    if preset != Preset::Original {
        composed.doubtful = doubtful(&composed.variables, sources.has);
    }
    Ok(composed)
}

/// What a caller has exported with an odd name is none of the command's business.
fn is_name(name: &OsStr) -> bool {
    !name.is_empty() && !name.as_bytes().contains(&b'=')
}

/// What becomes of a variable of the host.
enum Fate {
    Inherited,
    Breaks,
    NotOurs,
}

fn fate(preset: Preset, name: &OsStr, value: &OsStr, sources: &Sources) -> Fate {
    let is_inherited = match preset {
        Preset::Host | Preset::Original => return Fate::Inherited,
        // A directory of the host's, perhaps bound at the same path.
        _ if name == "HOME" => (sources.has)(Path::new(value)),
        // The host's says nothing about the image.
        _ if name == "PATH" => false,
        _ if breaks(name, value) => return Fate::Breaks,
        Preset::Image => true,
        Preset::Clean => is_one_of(LAUNCHER, name) || is_one_of(SESSION, name),
    };
    if is_inherited { Fate::Inherited } else { Fate::NotOurs }
}

/// Of Python's variables only those that name places: others say how it shall behave.
fn breaks(name: &OsStr, value: &OsStr) -> bool {
    is_one_of(BREAKERS, name) && (!name.as_bytes().starts_with(b"PYTHON") || value.as_bytes().contains(&b'/'))
}

/// Patterns are names, perhaps with a star at the end.
fn is_one_of(patterns: &[&str], name: &OsStr) -> bool {
    let fits = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
        None => name == *pattern,
    };
    patterns.iter().any(fits)
}

fn set_image(all: &mut Variables, image: &[OfImage]) -> Result<()> {
    let of_launcher: Vec<Variable> =
        all.list().iter().filter(|variable| is_one_of(LAUNCHER, &variable.name)).cloned().collect();
    for variable in image {
        match variable {
            OfImage::Exact(name, value) => all.set(name, value, &Origin::Image),
            OfImage::Line(line) => all.assign(line, Expand::Yes, &Origin::Image)?,
        }
    }
    for variable in of_launcher {
        all.set(&variable.name, &variable.value, &variable.origin);
    }
    Ok(())
}

fn apply(all: &mut Variables, edit: &Edit, host: &Environment, expand: Expand) -> Result<()> {
    match edit {
        Edit::Assign { text, origin } => all.assign(text, expand, &Origin::Said(origin.clone()))?,
        Edit::Lines { text, end, path } => all.assign_all(text, *end, expand, path)?,
        Edit::Set { name, value, origin } => {
            if !is_name(name) {
                return Err(Error::new(format!("{origin}: a variable needs a name")));
            }
            all.set(name, value, &Origin::Said(origin.clone()));
        }
        Edit::FromHost { glob } => {
            let pattern = env::pattern(glob)?;
            for (name, value) in host.iter().filter(|(name, _)| env::fits(&pattern, name)) {
                all.set(name, value, &Origin::Host);
            }
        }
        Edit::Image(lines) => {
            for line in lines {
                all.assign(line, expand, &Origin::Image)?;
            }
        }
        Edit::Unset { glob } => all.unset(glob)?,
    }
    Ok(())
}

/// What the host says where its libraries and modules are, and the container has nothing there.
fn doubtful(variables: &[Variable], has: &dyn Fn(&Path) -> bool) -> Vec<(OsString, OsString)> {
    let of_host = variables.iter().filter(|variable| variable.origin == Origin::Host);
    let missing = |variable: &Variable| {
        let parts = variable.value.as_bytes().split(|&b| b == b':' || b == b' ').map(OsStr::from_bytes);
        let path = parts.into_iter().find(|part| part.as_bytes().starts_with(b"/") && !has(Path::new(part)))?;
        Some((variable.name.clone(), path.to_owned()))
    };
    of_host.filter(|variable| breaks(&variable.name, &variable.value)).filter_map(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(text: &str) -> Environment {
        text.split_whitespace().map(|w| w.split_once('=').unwrap()).map(|(n, v)| (n.into(), v.into())).collect()
    }

    fn image(text: &str) -> Vec<OfImage> {
        environment(text).into_iter().map(|(name, value)| OfImage::Exact(name, value)).collect()
    }

    const HERE: [&str; 3] = ["/usr/lib", "/bound/home", "/lib/x.so"];

    fn composed(preset: Preset, host: &str, of_image: Vec<OfImage>, home: Option<&str>, edits: &[Edit]) -> Composed {
        let has = |path: &Path| HERE.iter().any(|here| Path::new(here) == path);
        let home = home.map(str::to_owned);
        let sources = Sources { host: environment(host), image: of_image, home, uid: 1000, has: &has };
        compose(preset, &sources, edits, Expand::Yes).unwrap()
    }

    /// `NAME=VALUE(ORIGIN)`, without what every command gets.
    fn shown(composed: &Composed) -> String {
        let shown = composed.variables.iter().filter(|variable| variable.name != "CH_RUNNING").map(|variable| {
            let (name, value) = (variable.name.to_string_lossy(), variable.value.to_string_lossy());
            format!("{name}={value}({})", variable.origin).replace(STANDARD_PATH, "STANDARD")
        });
        let mut all: Vec<String> = shown.collect();
        all.sort();
        all.join(" ")
    }

    #[test]
    fn presets() {
        let check = |preset: Preset, host: &str, of_image: &str, home: Option<&str>, want: &str| {
            let got = composed(preset, host, image(of_image), home, &[]);
            assert_eq!(shown(&got), want, "{preset:?} {host} | {of_image} | {home:?}");
            let running = got.variables.iter().find(|variable| variable.name == "CH_RUNNING").unwrap();
            assert_eq!((&running.value, &running.origin), (&"Weird Al Yankovic".into(), &Origin::Program));
        };
        let home = Some("/home/me");
        use Preset::{Clean, Host, Image, Original};
        // The path is the image's.
        check(Image, "PATH=/host", "PATH=/img:/bin", home, "HOME=/home/me(ch-run) PATH=/img:/bin(the image)");
        check(Image, "PATH=/host", "PATH=/img", home, "HOME=/home/me(ch-run) PATH=/img:/bin(the image)");
        check(Image, "PATH=/host", "", home, "HOME=/home/me(ch-run) PATH=STANDARD(ch-run)");
        check(Clean, "PATH=/host", "", home, "HOME=/home/me(ch-run) PATH=STANDARD(ch-run)");
        check(Host, "PATH=/host", "PATH=/img", home, "HOME=/home/me(ch-run) PATH=/host:/bin(the host)");
        check(Host, "", "PATH=/img", None, "PATH=/bin(ch-run)");
        check(Original, "A=h LD_PRELOAD=/no", "A=i", None, "A=h(the host) LD_PRELOAD=/no(the host) PATH=/bin(ch-run)");
        // Home: where it is mounted; else the host's if it is there; else the image's.
        let path = "PATH=STANDARD(ch-run)";
        check(Image, "HOME=/h", "HOME=/i", home, &format!("HOME=/home/me(ch-run) {path}"));
        check(Image, "HOME=/h", "HOME=/i", None, &format!("HOME=/i(the image) {path}"));
        check(Image, "HOME=/h", "", None, &format!("HOME=/(ch-run) {path}"));
        check(Image, "HOME=/bound/home", "", None, &format!("HOME=/bound/home(the host) {path}"));
        check(Clean, "HOME=/bound/home", "", None, &format!("HOME=/bound/home(the host) {path}"));
        check(Host, "HOME=/h PATH=/bin", "", None, "HOME=/h(the host) PATH=/bin(the host)");
        // The image's over the host's, but not over the launcher's.
        let rest = "HOME=/home/me(ch-run) PATH=STANDARD(ch-run)";
        check(Image, "A=h B=h", "B=i C=i", home, &format!("A=h(the host) B=i(the image) C=i(the image) {rest}"));
        check(Image, "PMI_RANK=1", "PMI_RANK=0", home, &format!("{rest} PMI_RANK=1(the host)"));
        check(
            Clean,
            "A=h LC_ALL=C SLURM_JOB_ID=7 SLURMX=1 http_proxy=p",
            "C=i",
            home,
            &format!(
                "C=i(the image) HOME=/home/me(ch-run) LC_ALL=C(the host) {path} SLURM_JOB_ID=7(the host) http_proxy=p(the host)"
            ),
        );
        // An image's own are no breakers.
        check(
            Image,
            "LD_LIBRARY_PATH=/h",
            "LD_LIBRARY_PATH=/i",
            home,
            &format!("HOME=/home/me(ch-run) LD_LIBRARY_PATH=/i(the image) {path}"),
        );
        // Odd names.
        let odd = Sources {
            host: vec![("".into(), "x".into()), ("=A".into(), "x".into())],
            image: image(""),
            home: None,
            uid: 0,
            has: &|_| true,
        };
        let got = compose(Preset::Host, &odd, &[], Expand::Yes).unwrap();
        assert_eq!(shown(&got), "PATH=/bin(ch-run)");
        let got = compose(Preset::Image, &odd, &[], Expand::Yes).unwrap();
        assert_eq!(shown(&got), "HOME=/root(ch-run) PATH=STANDARD(ch-run)");
    }

    #[test]
    fn values_of_images_are_what_they_are() {
        let of_image = image("A='q' B=$A:x");
        let got = composed(Preset::Image, "", of_image, Some("/h"), &[]);
        assert_eq!(shown(&got), "A='q'(the image) B=$A:x(the image) HOME=/h(ch-run) PATH=STANDARD(ch-run)");
        let script = ["A='q'", "PATH=/opt/bin:$PATH"].map(|line| OfImage::Line(line.into())).to_vec();
        let got = composed(Preset::Image, "PATH=/host", script, Some("/h"), &[]);
        assert_eq!(shown(&got), "A=q(the image) HOME=/h(ch-run) PATH=/opt/bin:STANDARD(the image)");
    }

    #[test]
    fn what_breaks_programs() {
        let check = |preset: Preset, host: &str, left_out: &str, doubtful: &str| {
            let got = composed(preset, host, image(""), None, &[]);
            let names: Vec<_> = got.left_out.iter().map(|name| name.to_string_lossy()).collect();
            assert_eq!(names.join(" "), left_out, "{preset:?} {host}");
            let shown = got.doubtful.iter().map(|(name, path)| format!("{}:{}", name.display(), path.display()));
            assert_eq!(shown.collect::<Vec<_>>().join(" "), doubtful, "{preset:?} {host}");
        };
        for preset in [Preset::Image, Preset::Clean] {
            check(preset, "LD_LIBRARY_PATH=/usr/lib LD_PRELOAD=x.so A=/nothing", "LD_LIBRARY_PATH LD_PRELOAD", "");
            check(preset, "PYTHONPATH=/x PYTHONHOME=/y PYTHONNOUSERSITE=1", "PYTHONPATH PYTHONHOME", "");
            check(preset, "BASH_ENV=/x ENV=/y ENVIRONMENT=z R_LIBS_USER=/z", "BASH_ENV ENV R_LIBS_USER", "");
        }
        check(Preset::Host, "LD_LIBRARY_PATH=/usr/lib:/lib/x.so LD_PRELOAD=x.so A=/nothing", "", "");
        check(Preset::Host, "LD_LIBRARY_PATH=/usr/lib:/opt/cray/lib:/y", "", "LD_LIBRARY_PATH:/opt/cray/lib");
        check(Preset::Original, "LD_LIBRARY_PATH=/opt/cray/lib", "", "");
        check(Preset::Host, "LD_PRELOAD=/lib/x.so:/lib/y.so PYTHONNOUSERSITE=1", "", "LD_PRELOAD:/lib/y.so");
    }

    #[test]
    fn changes_in_order() {
        let check = |preset: Preset, edits: &[Edit], want: &str| {
            let got = composed(preset, "H=1 LD_PRELOAD=/p PATH=/host", image("I=2 PATH=/bin"), Some("/h"), edits);
            assert_eq!(shown(&got), want, "{edits:?}");
        };
        let origin = || "-e".to_owned();
        let set = |name: &str, value: &str| Edit::Set { name: name.into(), value: value.into(), origin: origin() };
        let assign = |text: &str| Edit::Assign { text: text.into(), origin: "--set-env".into() };
        let unset = |glob: &str| Edit::Unset { glob: glob.into() };
        let from_host = |glob: &str| Edit::FromHost { glob: glob.into() };
        use Preset::{Clean, Host, Image};
        let rest = "I=2(the image) PATH=/bin(the image)";
        check(Image, &[set("X", "'$H'")], &format!("H=1(the host) HOME=/h(ch-run) {rest} X='$H'(-e)"));
        check(Image, &[assign("X='$H'")], &format!("H=1(the host) HOME=/h(ch-run) {rest} X=1(--set-env)"));
        check(Image, &[unset("*"), set("X", "1")], "X=1(-e)");
        check(
            Clean,
            &[from_host("[HL]*")],
            "H=1(the host) HOME=/h(ch-run) I=2(the image) LD_PRELOAD=/p(the host) PATH=/bin(the image)",
        );
        check(Clean, &[from_host("NO")], &format!("HOME=/h(ch-run) {rest}"));
        let image = Edit::Image(vec!["I=2".into(), "PATH=/i:$PATH".into()]);
        check(Host, &[unset("*"), image.clone()], "I=2(the image) PATH=/i(the image)");
        check(Host, &[unset("[LH]*"), image], "I=2(the image) PATH=/i:/host:/bin(the image)");
        let lines = Edit::Lines { text: b"A=1\n2\0B=3".to_vec(), end: 0, path: "f".into() };
        check(Image, &[unset("*"), lines], "A=1\n2(f:1) B=3(f:2)");
        let e = composed_error(&[set("", "x")]);
        assert_eq!(e, "-e: a variable needs a name");
    }

    fn composed_error(edits: &[Edit]) -> String {
        let sources = Sources { host: Vec::new(), image: image(""), home: None, uid: 0, has: &|_| true };
        compose(Preset::Image, &sources, edits, Expand::Yes).unwrap_err().to_string()
    }
}

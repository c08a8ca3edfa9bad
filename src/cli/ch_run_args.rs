//! What did the user ask of ch-run? Options and a command → [`Request`].
//!
//! The first word that is no option is the image, the second one begins the command; `--` between them is customary
//! and lets a command begin with a hyphen. Deliberately absent: `--ch-ssh`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

pub use super::ch_run_values::Feature;
use super::ch_run_values::{feature, memory};
use super::help;
use super::table::Value::{Flag, Optional, Print, Required};
use super::table::{self, Answer, Entry, Row, also, row};
use crate::container::Bind;
use crate::container::request::{Change, Entrypoint, Join, Preset, Request, Upper};
use crate::device::select::Wanted;
use crate::error::{Context, Error, Result};

/// There are no subcommands.
#[derive(PartialEq)]
enum Never {}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    Help,
    Version,
    /// `--feature`: only the exit code says whether it is there.
    Feature(Feature),
    Run {
        request: Box<Request>,
        verbosity: u8,
    },
}

/// What options say, before the operands are there.
struct Given {
    request: Request,
    verbosity: u8,
    feature: Option<Feature>,
}

/// In the order of the names.
const TABLE: &[Row<Given, Never>] = &[
    row(
        Some('b'),
        "bind",
        &[],
        Required("SRC[:DST[:ro]]", |g, v| {
            g.request.binds.push(bind(&v, "--bind")?);
            Ok(())
        }),
        "mount SRC at guest DST (default: the same path), read-only with :ro",
    ),
    row(
        Some('c'),
        "cd",
        &[],
        Required("DIR", |g, v| {
            g.request.cwd = Some(v.into());
            Ok(())
        }),
        "initial working directory in the container",
    ),
    row(
        None,
        "cdi-dirs",
        &[],
        Required("DIRS", |g, v| {
            g.request.devices.dirs = Some(v);
            Ok(())
        }),
        "directories of CDI files, the most important last (default: $CH_RUN_CDI_DIRS, /etc/cdi:/var/run/cdi)",
    ),
    row(
        None,
        "device",
        &[],
        Required("KIND[=NAME]", |g, v| {
            g.request.devices.named.push(device(&v, "--device")?);
            Ok(())
        }),
        "use what a CDI file says about this device, such as nvidia.com/gpu=0, or all of a kind (can be repeated)",
    ),
    row(Some('d'), "devices", &[], Flag(|g| g.request.devices.all = true), "use all devices that CDI files name"),
    row(
        None,
        "entrypoint",
        &[],
        Optional("PROG", |g, v| {
            g.request.entrypoint = v.map_or(Entrypoint::OfImage, Entrypoint::Program);
            Ok(())
        }),
        "take the words after IMAGE as arguments of the image's ENTRYPOINT, or of PROG",
    ),
    row(
        Some('e'),
        "env",
        &[],
        Required("PRESET|VAR[=VALUE]", |g, v| env(&mut g.request, &v, "--env")),
        "begin the environment with the host's variables but those that break programs of an image, and the image's over them \
         (image; default), with the host's as they are (host), or with the image's and of the host's only what jobs need (clean); \
         or set VAR, or take the host's VAR, which may be a pattern",
    ),
    row(None, "env-no-expand", &[], Flag(|g| g.request.expand = false), "don't expand $ in --set-env values"),
    row(
        None,
        "feature",
        &[],
        Required("FEATURE", |g, v| {
            g.feature = Some(feature(&v)?);
            Ok(())
        }),
        "exit with 0 if FEATURE is there, else with 87: extglob, overlayfs, seccomp, squash, tmpfs-xattrs",
    ),
    row(
        Some('g'),
        "gid",
        &[],
        Required("GID", |g, v| {
            g.request.gid = Some(id(&v, "--gid")?);
            Ok(())
        }),
        "run as GID within the container",
    ),
    row(
        None,
        "gpu",
        &[],
        Flag(|g| g.request.devices.gpu = true),
        "use the machine's GPUs: what CDI files say about them, else the driver's libraries that this machine has",
    ),
    row(None, "home", &[], Flag(|g| g.request.home = true), "mount your home directory at /home/$USER (default)"),
    row(
        Some('i'),
        "interactive",
        &[],
        Optional("t", |_, v| match v {
            None => Ok(()),
            // -it, as one word.
            Some(v) if v == "t" => Ok(()),
            Some(v) => Err(wrong(&format!("-i: unexpected: {}", crate::log::escape(&v.to_string_lossy())))),
        }),
        "accepted, as Docker's -i and -it: the command has your terminal anyway",
    ),
    row(Some('j'), "join", &[], Flag(|g| join(g, |_| {})), "use the same container as peer ch-run processes"),
    row(
        None,
        "join-ct",
        &[],
        Required("N", |g, v| {
            let count = number(&v, "--join-ct")?;
            join(g, |j| j.count = Some(count));
            Ok(())
        }),
        "the same (the number of peers need not be known)",
    ),
    row(
        None,
        "join-tag",
        &[],
        Required("TAG", |g, v| {
            join(g, |j| j.tag = Some(v));
            Ok(())
        }),
        "the same; label of the peers (default: job and step)",
    ),
    row(
        None,
        "join-pid",
        &[],
        Required("PID", |g, v| {
            let pid = number(&v, "--join-pid")?;
            join(g, |j| j.pid = Some(pid));
            Ok(())
        }),
        "join the container of a running process",
    ),
    row(
        None,
        "no-join",
        &[],
        Flag(|g| (g.request.join, g.request.no_join) = (None, true)),
        "don't, not even ranks of one step",
    ),
    row(
        None,
        "module",
        &[],
        Required("NAME", |g, v| {
            g.request.modules.push(v.to_string_lossy().into_owned());
            Ok(())
        }),
        "use the settings of the bundle [NAME], too; can be repeated",
    ),
    row(
        None,
        "no-conf",
        &[],
        Flag(|g| g.request.settings = false),
        "use no settings files (/etc/ch-image/ch-run.conf, ~/.config/ch-image/ch-run.conf, $CH_RUN_CONF)",
    ),
    row(None, "no-home", &[], Flag(|g| g.request.home = false), "don't mount your home directory"),
    row(
        None,
        "no-mount",
        &[],
        Flag(|g| g.request.no_mount = true),
        "unpack a packed image to $TMPDIR or /tmp instead of mounting it",
    ),
    row(
        None,
        "no-passwd",
        &[],
        Flag(|g| g.request.passwd = false),
        "don't mount /etc/passwd and /etc/group of our making",
    ),
    row(
        Some('m'),
        "mount",
        &[],
        Required("DIR", |_, _| Ok(())),
        "accepted: a packed image needs no directory of the host to be mounted on",
    ),
    row(
        None,
        "overlay",
        &[],
        Required("DIR", |g, v| {
            g.request.upper = directory(&v)?;
            Ok(())
        }),
        "let the command write, and keep what it wrote in DIR",
    ),
    row(
        Some('s'),
        "storage",
        &[],
        Required("DIR", |g, v| {
            g.request.storage = Some(v.into());
            Ok(())
        }),
        "storage directory, where images are found by name",
    ),
    row(None, "rm", &[], Flag(|_| {}), "accepted, as Docker's: nothing is left behind anyway"),
    row(
        None,
        "set-env",
        &[],
        Optional("FILE|VAR=VAL", |g, v| {
            g.request.changes.push(set_env(v, b'\n'));
            Ok(())
        }),
        "set environment variables: those of the image, those in FILE (one VAR=VALUE per line), or this one",
    ),
    row(
        None,
        "set-env0",
        &[],
        Optional("FILE|VAR=VAL", |g, v| {
            g.request.changes.push(set_env(v, b'\0'));
            Ok(())
        }),
        "the same, with NUL after each VAR=VALUE in FILE (env -0)",
    ),
    row(Some('t'), "private-tmp", &[], Flag(|g| g.request.private_tmp = true), "use a /tmp of the container's own"),
    row(
        Some('u'),
        "uid",
        &[],
        Required("UID", |g, v| {
            g.request.uid = Some(id(&v, "--uid")?);
            Ok(())
        }),
        "run as UID within the container",
    ),
    row(
        None,
        "unset-env",
        &[],
        Required("GLOB", |g, v| {
            g.request.changes.push(Change::Unset(v));
            Ok(())
        }),
        "unset the environment variables whose name fits",
    ),
    row(
        None,
        "volume",
        &[],
        Required("SRC:DST[:ro]", |g, v| {
            g.request.binds.push(bind(&v, "--volume")?);
            Ok(())
        }),
        "the same as --bind; -v, too, if SRC is a path and :DST follows",
    ),
    row(Some('v'), "verbose", &[], Flag(|g| g.verbosity = g.verbosity.saturating_add(1)), "say more (can be repeated)"),
    row(Some('w'), "write", &[], Flag(|g| g.request.writable = true), "mount the image read-write"),
    row(
        Some('W'),
        "write-fake",
        &[],
        Optional("SIZE", |g, v| {
            g.request.upper = memory(v)?;
            Ok(())
        }),
        "let the command write, and forget what it wrote: it is kept in memory, up to SIZE (such as 2g; default: 12% of the memory)",
    ),
    also(&["?"], row(Some('h'), "help", &[], Print(Answer::Help), "print this help and exit")),
    row(Some('V'), "version", &[], Print(Answer::Version), "print the version and exit"),
];

/// Its options, for completions and manual pages.
pub(super) fn entries() -> Vec<Entry> {
    TABLE.iter().map(Row::entry).collect()
}

pub fn help() -> String {
    let mut text = String::from(
        "Usage: ch-run [OPTION...] IMAGE [-- CMD [ARG...]]\n\n\
         Run a command in a container, as yourself and with no privilege. Without CMD it is the image's own\n\
         (ENTRYPOINT and CMD).\n\n\
         IMAGE is the name of an image in the storage directory, a directory, or a packed image (SquashFS or\n\
         SIF file); ./NAME is never looked for in the storage directory.\n\n",
    );
    help::rows(&mut text, TABLE, |_| true);
    text
}

/// `args` without the program's own name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let mut parser = Parser::from_args(args);
    let mut given = Given { request: Request::new(OsString::new()), verbosity: 0, feature: None };
    let mut image = None;
    while let Some(arg) = parser.next().map_err(usage)? {
        let row = match arg {
            Arg::Value(word) if image.is_none() => {
                image = Some(word);
                continue;
            }
            Arg::Value(word) => {
                given.request.argv.push(word);
                given.request.argv.extend(parser.raw_args().map_err(usage)?);
                break;
            }
            Arg::Short(_) | Arg::Long(_) => table::find(TABLE, None, &arg)?.ok_or_else(|| unknown(arg))?,
        };
        match table::apply(row, &mut parser, &mut given)? {
            None => after(row.long, &mut parser, &mut given)?,
            Some(Answer::Help) => return Ok(Invocation::Help),
            Some(Answer::Version | Answer::Dependencies) => return Ok(Invocation::Version),
        }
    }
    let Given { mut request, verbosity, feature } = given;
    if let Some(feature) = feature {
        return Ok(Invocation::Feature(feature));
    }
    // Who says both wants to write; the image stays as it is. (Nextflow says both.)
    request.writable &= request.upper == Upper::None;
    request.image = image.ok_or_else(|| wrong("no image given"))?;
    let is_said = !request.argv.is_empty() || request.entrypoint != Entrypoint::Unsaid;
    if !is_said && request.join.as_ref().is_some_and(|join| join.pid.is_some()) {
        return Err(wrong("no command given"));
    }
    Ok(Invocation::Run { request: Box::new(request), verbosity })
}

fn unknown(arg: Arg<'_>) -> Error {
    let near = match &arg {
        Arg::Long(name) => table::nearest_option(TABLE, None, &format!("--{name}")),
        Arg::Short(_) | Arg::Value(_) => None,
    };
    let e = table::usage(arg.unexpected());
    e.hint(near.map_or("see: ch-run --help".to_owned(), |near| format!("did you mean --{near}?")))
}

/// What is behind an option without a value, if that was meant to be one.
fn after(option: &str, parser: &mut Parser, given: &mut Given) -> Result<()> {
    let Some(mut words) = parser.try_raw_args() else { return Ok(()) };
    let Some(next) = words.peek() else { return Ok(()) };
    match option {
        // Docker's -v.
        "verbose" if is_volume(next.as_bytes()) => {
            given.verbosity = given.verbosity.saturating_sub(1);
            given.request.binds.push(bind(next, "--volume")?);
            words.next();
            Ok(())
        }
        "set-env" if is_assignment(next.as_bytes()) => {
            let next = crate::log::escape(&next.to_string_lossy()).into_owned();
            Err(Error::usage(format!("--set-env takes its value behind =, not {next} as a word of its own"))
                .hint(format!("--set-env={next}, or --env {next}")))
        }
        _ => Ok(()),
    }
}

/// `/a:/b`, `./a:/b`: neither a name of an image nor the path of one.
fn is_volume(text: &[u8]) -> bool {
    (text.starts_with(b"/") || text.starts_with(b".")) && text.windows(2).any(|pair| pair == b":/")
}

/// `A=b`
fn is_assignment(text: &[u8]) -> bool {
    let name = text.split(|&b| b == b'=').next().unwrap_or_default();
    name.len() < text.len()
        && name.first().is_some_and(|first| !first.is_ascii_digit())
        && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

fn usage(e: lexopt::Error) -> Error {
    table::usage(e).hint("see: ch-run --help")
}

fn wrong(text: &str) -> Error {
    Error::usage(text).hint("see: ch-run --help")
}

fn number(text: &OsStr, option: &str) -> Result<u32> {
    let parsed = text.to_str().filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok());
    parsed.ok_or_else(|| wrong(&format!("{option}: not a number: {}", crate::log::escape(&text.to_string_lossy()))))
}

/// The last number stands for "none" in the kernel.
fn id(text: &OsStr, option: &str) -> Result<u32> {
    match number(text, option)? {
        u32::MAX => Err(wrong(&format!("{option}: out of range"))),
        id => Ok(id),
    }
}

fn join(given: &mut Given, change: impl FnOnce(&mut Join)) {
    change(given.request.join.get_or_insert_default());
}

fn set_env(value: Option<OsString>, end: u8) -> Change {
    match value {
        None => Change::SetImage,
        Some(text) if text.as_bytes().contains(&b'=') => Change::Assign(text),
        Some(file) => Change::SetFile { path: file.into(), end },
    }
}

/// What the environment begins with, or as with Docker a variable: `NAME=VALUE` (the value is what it is), or a pattern for
/// names of the host's variables.
/// `origin`: who says it.
pub fn env(request: &mut Request, text: &OsStr, origin: &str) -> Result<()> {
    if let Some(preset) = Preset::parse(text) {
        request.preset = Some(preset);
        return Ok(());
    }
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|&b| b == b'=');
    if bytes.is_empty() || at == Some(0) {
        let shown = crate::log::escape(&text.to_string_lossy()).into_owned();
        return Err(wrong(&format!("{origin}: not image, host, clean or VAR[=VALUE]: {shown}")));
    }
    let part = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    request.changes.push(match at {
        Some(at) => Change::Set { name: part(&bytes[..at]), value: part(&bytes[at + 1..]), origin: origin.to_owned() },
        None => Change::FromHost(text.to_owned()),
    });
    Ok(())
}

pub fn device(text: &OsStr, origin: &str) -> Result<String> {
    let known = text.to_str().filter(|text| Wanted::parse(text).is_some());
    known.map(str::to_owned).ok_or_else(|| {
        wrong(&format!("{origin}: not KIND or KIND=NAME: {}", crate::log::escape(&text.to_string_lossy())))
    })
}

fn directory(path: &OsStr) -> Result<Upper> {
    let path = Path::new(path);
    std::path::absolute(path).context(|| format!("--overlay: {}", path.display())).map(Upper::Directory)
}

/// `SRC[:DST[:ro]]`; the source as an absolute path, the target as the same by default.
pub fn bind(text: &OsStr, origin: &str) -> Result<Bind> {
    let bytes = text.as_bytes();
    let shorter = bytes.strip_suffix(b":ro").filter(|rest| rest.contains(&b':'));
    let (bytes, read_only) = (shorter.unwrap_or(bytes), shorter.is_some());
    let (source, target) = match bytes.iter().position(|&b| b == b':') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    if source.is_empty() || target.is_some_and(|t| t.is_empty()) {
        return Err(wrong(&format!("{origin}: not SRC[:DST[:ro]]: {}", crate::log::escape(&text.to_string_lossy()))));
    }
    let source = Path::new(OsStr::from_bytes(source));
    let absolute = std::path::absolute(source).context(|| format!("{origin}: {}", source.display()))?;
    let target = target.map_or_else(|| absolute.clone(), |t| PathBuf::from(OsStr::from_bytes(t)));
    Ok(Bind { read_only, ..Bind::new(absolute, target) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Request> {
        match parse(line.split_whitespace().map(OsString::from))? {
            Invocation::Run { request, .. } => Ok(*request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_become_a_request() {
        let check = |line: &str, change: &dyn Fn(&mut Request)| {
            let mut want = Request::new("img".into());
            want.argv = vec!["cmd".into()];
            change(&mut want);
            assert_eq!(run(line).unwrap(), want, "{line}");
        };
        check("img -- cmd", &|_| {});
        check("img cmd", &|_| {});
        check("img", &|r| r.argv = Vec::new());
        check("img --", &|r| r.argv = Vec::new());
        check("img -- cmd -w -- x", &|r| r.argv = ["cmd", "-w", "--", "x"].map(OsString::from).to_vec());
        check("img cmd -w", &|r| r.argv = ["cmd", "-w"].map(OsString::from).to_vec());
        check("img -- -cmd", &|r| r.argv = vec!["-cmd".into()]);
        check("-w img -t -- cmd", &|r| (r.writable, r.private_tmp) = (true, true));
        check("-u0 -g 7 img cmd", &|r| (r.uid, r.gid) = (Some(0), Some(7)));
        check("--uid=1 --gid 2 img cmd", &|r| (r.uid, r.gid) = (Some(1), Some(2)));
        check("-c /x img cmd", &|r| r.cwd = Some("/x".into()));
        check("--cd=/x img cmd", &|r| r.cwd = Some("/x".into()));
        check("-b /a -b /b:/c img cmd", &|r| r.binds = vec![Bind::new("/a", "/a"), Bind::new("/b", "/c")]);
        check("-b /a:/b:c img cmd", &|r| r.binds = vec![Bind::new("/a", "/b:c")]);
        check("-b /a:/b:ro img cmd", &|r| r.binds = vec![Bind { read_only: true, ..Bind::new("/a", "/b") }]);
        check("-W img cmd", &|r| r.upper = Upper::Memory("12%".into()));
        check("-W2g img cmd", &|r| r.upper = Upper::Memory("2g".into()));
        check("--write-fake=50% img cmd", &|r| r.upper = Upper::Memory("50%".into()));
        check("--overlay /o img cmd", &|r| r.upper = Upper::Directory("/o".into()));
        check("-w -W img cmd", &|r| r.upper = Upper::Memory("12%".into()));
        check("--overlay /o -w img cmd", &|r| r.upper = Upper::Directory("/o".into()));
        check("-m /var/tmp/mnt --mount=/x img cmd", &|_| {});
        check("--no-home --no-passwd img cmd", &|r| (r.home, r.passwd) = (false, false));
        check("--no-home --home img cmd", &|_| {});
        for dockers in ["-it", "-i", "--rm", "-i --rm"] {
            check(&format!("{dockers} img cmd"), &|_| {});
        }
        check("-v /b:/c -v ./d:/c:ro img cmd", &|r| {
            let here = std::path::absolute("./d").unwrap();
            r.binds = vec![Bind::new("/b", "/c"), Bind { read_only: true, ..Bind::new(here, "/c") }];
        });
        check("--volume /b:/c -v img cmd", &|r| r.binds = vec![Bind::new("/b", "/c")]);
        check("-v -vw img cmd", &|r| r.writable = true);
        check("--set-env --set-env=f --set-env=A=b --unset-env X* img cmd", &|r| {
            let set =
                [Change::SetImage, Change::SetFile { path: "f".into(), end: b'\n' }, Change::Assign("A=b".into())];
            r.changes = set.into_iter().chain([Change::Unset("X*".into())]).collect();
        });
        check("--env-no-expand img cmd", &|r| r.expand = false);
        check("--set-env0 --set-env0=f --set-env0=A=b img cmd", &|r| {
            r.changes =
                vec![Change::SetImage, Change::SetFile { path: "f".into(), end: 0 }, Change::Assign("A=b".into())];
        });
        let set = |value: &str| Change::Set { name: "A".into(), value: value.into(), origin: "--env".into() };
        check("-e A=b=c -eA= -e=A=x --env A=host -e A -e A* img cmd", &|r| {
            let from_host = ["A", "A*"].map(|glob| Change::FromHost(glob.into()));
            r.changes = ["b=c", "", "x", "host"].map(set).into_iter().chain(from_host).collect();
        });
        check("--env host img cmd", &|r| r.preset = Some(Preset::Host));
        check("--env clean --env=image img cmd", &|r| r.preset = Some(Preset::Image));
        check("-e clean img cmd", &|r| r.preset = Some(Preset::Clean));
        check("--entrypoint img cmd", &|r| r.entrypoint = Entrypoint::OfImage);
        check("--entrypoint=/p img cmd", &|r| r.entrypoint = Entrypoint::Program("/p".into()));
        check("--entrypoint= img cmd", &|r| r.entrypoint = Entrypoint::Program("".into()));
        check("--no-conf img cmd", &|r| r.settings = false);
        check("--module a --module=b img cmd", &|r| r.modules = vec!["a".into(), "b".into()]);
        check("-s /st img cmd", &|r| r.storage = Some("/st".into()));
        check("-j img cmd", &|r| r.join = Some(Join::default()));
        check("--no-mount img cmd", &|r| r.no_mount = true);
        check("-j --no-join img cmd", &|r| r.no_join = true);
        check("--join-ct=2 --join-tag x img cmd", &|r| {
            r.join = Some(Join { count: Some(2), tag: Some("x".into()), pid: None });
        });
    }

    #[test]
    fn wrong_usage_is_said() {
        let check = |line: &str, want: &str| {
            let e = run(line).unwrap_err();
            assert_eq!((e.to_string().as_str(), e.exit_code()), (want, 2), "{line}");
        };
        check("", "no image given");
        check("--join-pid=1 img", "no command given");
        check("--join-pid=1 img --", "no command given");
        check("--nonsense img cmd", "invalid option '--nonsense'");
        check("-x img cmd", "invalid option '-x'");
        check("-iw img cmd", "-i: unexpected: w");
        check("--set-env A=b img", "--set-env takes its value behind =, not A=b as a word of its own");
        check("-u img cmd", "--uid: not a number: img");
        check("-u -1 img cmd", "--uid: not a number: -1");
        check("-u 4294967295 img cmd", "--uid: out of range");
        check("-u 4294967296 img cmd", "--uid: not a number: 4294967296");
        check("-b :/x img cmd", "--bind: not SRC[:DST[:ro]]: :/x");
        check("-b /x: img cmd", "--bind: not SRC[:DST[:ro]]: /x:");
        check("-b /x::ro img cmd", "--bind: not SRC[:DST[:ro]]: /x::ro");
        check("-W0 img cmd", "--write-fake: not a size: 0");
        check("--write-fake=2,uid=0 img cmd", "--write-fake: not a size: 2,uid=0");
        check("--feature nonsense", "--feature: unknown feature: nonsense");
        check("-e =x img cmd", "--env: not image, host, clean or VAR[=VALUE]: =x");
        check("--env= img cmd", "--env: not image, host, clean or VAR[=VALUE]: ");
        check("img -b", "missing argument for option '-b'");
    }

    #[test]
    fn brief_information() {
        assert_eq!(parse(["--help".into()]).unwrap(), Invocation::Help);
        assert_eq!(parse(["-V".into()]).unwrap(), Invocation::Version);
        assert_eq!(parse(["--feature=squash".into()]).unwrap(), Invocation::Feature(Feature::Squash));
        let verbose = parse(["-vv", "img", "cmd"].map(OsString::from)).unwrap();
        assert!(matches!(verbose, Invocation::Run { verbosity: 2, .. }));
    }
}

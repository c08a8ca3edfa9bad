//! The kernel, and what it allows this user.

use std::fs;

use super::Finding;
use crate::cmd::{devices as cdi, list};
use crate::container;
use crate::device::select::Source;
use crate::sys;
use crate::sys::process::{Limit, limit};

pub fn findings() -> Vec<Finding> {
    vec![kernel(), user_namespaces(), emulation(), fuse(), limits(), devices()]
}

fn setting(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel() -> Finding {
    match sys::host::uname() {
        Ok(u) => Finding::good("kernel", format!("Linux {} on {}, node {}", u.release, u.machine, u.node)),
        Err(e) => Finding::bad("kernel", e.to_string(), ""),
    }
}

fn user_namespaces() -> Finding {
    let about = "user namespaces";
    match container::can_enter() {
        Ok(()) => match setting("/proc/sys/user/max_user_namespaces") {
            Some(most) => Finding::good(about, format!("allowed, up to {most}")),
            None => Finding::good(about, "allowed"),
        },
        Err(e) => {
            let then = "RUN and ch-run don't work here, nor COPY onto layers; pull, list, delete and push do";
            let hint = e.get_hint().unwrap_or("allow user namespaces for ordinary users");
            let ask = hint.strip_prefix("ask the administrator for: ").unwrap_or(hint);
            let ask = ask.strip_prefix("ask the administrator for ").unwrap_or(ask);
            Finding::bad(about, e.to_string(), then).ask(ask)
        }
    }
}

fn emulation() -> Finding {
    let about = "root emulation";
    let status = setting("/proc/self/status").unwrap_or_default();
    let filtered = status.lines().any(|line| line.starts_with("Seccomp:") && !line.ends_with('0'));
    let actions = setting("/proc/sys/kernel/seccomp/actions_avail");
    let has = |action: &str| actions.as_ref().is_none_or(|list| list.split(' ').any(|a| a == action));
    if !has("errno") {
        let then = "--force=seccomp and --force=notify don't work; --force=fakeroot does";
        return Finding::limited(about, "this kernel has no seccomp filters", then)
            .ask("a kernel with CONFIG_SECCOMP_FILTER");
    }
    if !has("user_notif") || !sys::seccomp::sizes_fit() {
        let then = "--force=seccomp works; --force=notify does not record owners";
        return Finding::limited(about, "this kernel has no seccomp notification", then).ask("Linux 5.6 or later");
    }
    match filtered {
        false => Finding::good(about, "--force=seccomp and --force=notify work"),
        true => Finding::limited(
            about,
            "a seccomp filter is in force already (container engine or batch system)",
            "--force=seccomp works; --force=notify may record nothing if that filter has a supervisor",
        ),
    }
}

/// How ch-run runs a packed image.
fn fuse() -> Finding {
    let about = "/dev/fuse";
    match crate::fuse::can_open() {
        Ok(()) => Finding::good(about, "can be opened: ch-run mounts packed images"),
        Err(e) => {
            let place = crate::cmd::unpacked_image::place();
            let then = format!("ch-run unpacks packed images into {} first", place.display());
            Finding::limited(about, crate::error::io_text(&e), then).ask(crate::fuse::advice(&e))
        }
    }
}

/// A limit, the option of ulimit, the least that is no hindrance, what it counts.
type Row = (Limit, &'static str, u64, &'static str);
const ENOUGH: &[Row] = &[
    (Limit::Files, "-n", 256, "open files"),
    (Limit::Processes, "-u", 64, "processes"),
    (Limit::FileSize, "-f", 10 << 30, "for a file"),
    (Limit::Memory, "-v", 1 << 30, "of address space"),
    (Limit::CpuTime, "-t", 3600, "seconds of CPU time"),
];

fn limits() -> Finding {
    let about = "limits";
    let shown = |(of, _, _, name): &Row| match (limit(*of), of) {
        (Some(n), Limit::FileSize | Limit::Memory) => format!("{} {name}", list::bytes(n)),
        (Some(n), Limit::Files | Limit::Processes | Limit::CpuTime) => format!("{n} {name}"),
        (None, _) => format!("unlimited {name}"),
    };
    let low: Vec<_> = ENOUGH.iter().filter(|(of, _, enough, _)| limit(*of).is_some_and(|n| n < *enough)).collect();
    if low.is_empty() {
        return Finding::good(about, format!("{}, {}", shown(&ENOUGH[0]), shown(&ENOUGH[1])));
    }
    let what: Vec<String> = low.iter().map(|row| shown(row)).collect();
    let options: Vec<&str> = low.iter().map(|(_, option, _, _)| *option).collect();
    Finding::limited(
        about,
        what.join(", "),
        format!(
            "large images or builds may fail; raise it with ulimit {} (or ask for more in the batch job)",
            options.join(", ")
        ),
    )
    .ask("higher limits in /etc/security/limits.conf, if ulimit is refused")
}

/// What `ch-run --device` finds.
fn devices() -> Finding {
    let about = "devices";
    let directories = match cdi::directories(None) {
        Ok(directories) => directories,
        Err(e) => return Finding::limited(about, e.to_string(), "ch-run --device finds nothing there"),
    };
    let sources = cdi::read(&directories);
    if sources.is_empty() {
        let names: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        let driver = cdi::gpu_driver().names;
        let driver = if driver.is_empty() { "no driver of a GPU".to_owned() } else { driver.join(", ") };
        return Finding::good(about, format!("no CDI files in {}; ch-run --gpu finds: {driver}", names.join(", ")));
    }
    let shown = |source: &Source| match &source.document {
        Ok(document) => {
            let names: Vec<&str> = document.devices.iter().map(|device| device.name.as_str()).collect();
            format!("{}: {}={}", source.path, document.kind, names.join(","))
        }
        Err(e) => format!("{} can't be read: {e}", source.path),
    };
    let what = sources.iter().map(shown).collect::<Vec<_>>().join("; ");
    if sources.iter().all(|source| source.document.is_ok()) {
        return Finding::good(about, what);
    }
    Finding::limited(about, what, "ch-run --device does not find what the damaged file names").ask("a valid CDI file")
}

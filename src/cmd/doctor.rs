//! `doctor`: what does this machine offer, what follows, and what to ask the administrator for? One page.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Host, list, print, probe};
use crate::cli::Options;
use crate::container;
use crate::error::{Error, Result};
use crate::registry::settings::Settings;
use crate::sys;
use crate::sys::fs::{self as sysfs, Lock, Wait};

/// How a finding stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Works, but slower or with less.
    Limited,
    /// Something that the program is for does not work.
    Bad,
}

struct Finding {
    about: &'static str,
    state: State,
    what: String,
    /// What follows and what to do; empty if all is well.
    then: String,
}

pub fn doctor(host: &Host, options: &Options) -> Result<()> {
    let storage = host.storage_path()?;
    let findings = [
        kernel(),
        user_namespaces(),
        overlay(&storage),
        place(&storage),
        locks(&storage),
        emulation(),
        network(options),
        certificates(options),
    ];
    let bad = findings.iter().filter(|f| f.state == State::Bad).count();
    if options.json {
        let list: Vec<_> = findings
            .iter()
            .map(|f| json!({"about": f.about, "state": f.state.name(), "what": f.what, "then": f.then}))
            .collect();
        print(&format!("{:#}\n", serde_json::Value::Array(list)))?;
    } else {
        let mut text = String::new();
        for f in &findings {
            text.push_str(&format!("{:8} {}: {}\n", f.state.name(), f.about, f.what));
            if !f.then.is_empty() {
                text.push_str(&format!("         {}\n", f.then));
            }
        }
        print(&text)?;
    }
    match bad {
        0 => Ok(()),
        _ => {
            Err(Error::new("this machine lacks what some commands need")
                .hint("show the page above to the administrator"))
        }
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Limited => "limited",
            State::Bad => "bad",
        }
    }
}

fn finding(about: &'static str, state: State, what: impl Into<String>, then: impl Into<String>) -> Finding {
    Finding { about, state, what: what.into(), then: then.into() }
}

fn kernel() -> Finding {
    match sys::host::uname() {
        Ok(u) => finding("kernel", State::Good, format!("Linux {} on {}, node {}", u.release, u.machine, u.node), ""),
        Err(e) => finding("kernel", State::Bad, e.to_string(), ""),
    }
}

fn user_namespaces() -> Finding {
    match container::can_enter() {
        Ok(()) => finding("user namespaces", State::Good, "allowed", ""),
        Err(e) => {
            let way_out = e.get_hint().unwrap_or("ask the administrator to allow user namespaces").to_owned();
            let then = format!("RUN, COPY onto layers and ch-run don't work here; pull, list and push do. {way_out}");
            finding("user namespaces", State::Bad, e.to_string(), then)
        }
    }
}

/// The directory that exists: storage itself or the nearest one above it.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn overlay(storage: &Path) -> Finding {
    let about = "overlayfs";
    let place = nearest(storage);
    let trial = place.join(format!(".ch-image-doctor-{}", std::process::id()));
    if let Err(e) = std::fs::create_dir(&trial) {
        return finding(about, State::Limited, format!("can't try it in {}: {e}", place.display()), "");
    }
    let works = probe::overlay_works(&trial);
    // It is empty, or the probe has said why not.
    let _ = std::fs::remove_dir(&trial);
    match works {
        Ok(true) => finding(about, State::Good, format!("works in {}", place.display()), ""),
        Ok(false) => finding(
            about,
            State::Limited,
            format!("not possible in {}", place.display()),
            "images are whole trees and steps are not cached: use a local disk (--storage), or a kernel from 5.11 on",
        ),
        Err(e) => finding(about, State::Limited, e.to_string(), ""),
    }
}

fn place(storage: &Path) -> Finding {
    let about = "storage directory";
    let place = nearest(storage);
    let space = match File::open(&place).and_then(|dir| sysfs::space(&dir)) {
        Ok(space) => space,
        Err(e) => return finding(about, State::Bad, format!("{}: {e}", place.display()), "use another: --storage"),
    };
    let kind = match space.magic as u32 {
        0xef53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x6969 => "NFS",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x794c_7630 => "overlayfs",
        0x6573_5546 => "FUSE",
        _ => "other file system",
    };
    let inodes = if space.inodes == 0 { "uncounted".to_owned() } else { space.free_inodes.to_string() };
    let what = format!("{} on {kind}, {} free, {inodes} inodes free", storage.display(), list::bytes(space.free));
    let (state, then) = match kind {
        "NFS" | "Lustre" | "GPFS" => (
            State::Limited,
            "network file systems are slow for many small files: use a local disk or tmpfs (--storage)",
        ),
        _ if space.free < 1 << 30 => {
            (State::Limited, "little space is left: ch-image gc, or another place (--storage)")
        }
        _ => (State::Good, ""),
    };
    finding(about, state, what, then)
}

fn locks(storage: &Path) -> Finding {
    let about = "locks";
    let place = nearest(storage);
    match File::open(&place).and_then(|dir| sysfs::flock(&dir, Lock::Shared, Wait::No)) {
        Ok(_) => finding(about, State::Good, format!("flock works in {}", place.display()), ""),
        Err(e) => finding(
            about,
            State::Limited,
            format!("no flock in {}: {e}", place.display()),
            "use the storage directory from one process at a time",
        ),
    }
}

fn emulation() -> Finding {
    match sys::seccomp::sizes_fit() {
        true => finding("root emulation", State::Good, "--force=seccomp and --force=notify work", ""),
        false => finding(
            "root emulation",
            State::Limited,
            "this kernel has no seccomp notification",
            "--force=seccomp works from Linux 3.17 on; --force=notify needs 5.0",
        ),
    }
}

fn network(_options: &Options) -> Finding {
    let names =
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"];
    // Names only: values may hold passwords.
    let set: Vec<&str> = names.into_iter().filter(|n| std::env::var_os(n).is_some_and(|v| !v.is_empty())).collect();
    let what = if set.is_empty() { "no proxy is set".to_owned() } else { format!("set: {}", set.join(" ")) };
    match Settings::from_vars(&|name| std::env::var(name).ok()) {
        Ok(_) => finding("proxies", State::Good, what, ""),
        Err(e) => finding("proxies", State::Bad, e.to_string(), "correct or unset the variable"),
    }
}

fn certificates(options: &Options) -> Finding {
    let about = "certificates";
    let trusted = Settings::from_vars(&|name| std::env::var(name).ok()).and_then(|mut settings| {
        settings.trust.extra = options.ca.clone();
        settings.trust.config()
    });
    match trusted {
        Ok(_) => finding(about, State::Good, "the system's bundle, $SSL_CERT_FILE or $SSL_CERT_DIR can be read", ""),
        Err(e) => finding(about, State::Bad, e.to_string(), "set SSL_CERT_FILE or use --ca FILE"),
    }
}

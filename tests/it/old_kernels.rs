//! Does everything work where the kernel lacks system calls? The smoke suite, with calls refused as older kernels do.
//!
//! (Other kernels themselves: tests/tools/kernels.sh.)

use std::path::Path;

use crate::harness::{Mode, Site};
use crate::needs;
use crate::packed_runs::needs_fuse;

/// Runs the suite as on that version of Linux.
fn smoke(version: &str, mode: Mode, has_notify: bool) {
    needs!("cc", "busybox", "timeout", "md5sum");
    let site = Site::of(mode);
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = site.path("bin/old-kernel");
    site.program("cc").arg("-o").arg(&program).arg(top.join("tests/it/old_kernels/old-kernel.c")).success();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", site.path("bin").display());
    let run = site.program("old-kernel").args([version, "sh"]).arg(top.join("tests/tools/smoke.sh"));
    let run = run.arg(site.path("smoke")).env("PATH", path).env("NO_NOTIFY", if has_notify { "" } else { "1" });
    let done = run.success();
    let checks = done.stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(checks > 60, "{checks} checks:\n{}", done.stdout);
}

/// What many clusters have (RHEL 8): no overlayfs for users, none of the new calls, no notifications.
#[test]
fn as_on_linux_4_18() {
    needs_fuse!();
    smoke("4.18", Mode::Plain, false);
}

/// As some distributions patch it: with overlayfs for users.
#[test]
fn as_on_linux_5_4_with_overlayfs() {
    needs_fuse!();
    smoke("5.4", Mode::Overlay, false);
}

#[test]
fn as_on_linux_5_10_with_overlayfs() {
    needs_fuse!();
    smoke("5.10", Mode::Overlay, true);
}

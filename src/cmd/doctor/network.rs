//! Proxies, certificates, passwords. Names only: values may hold passwords.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Finding;
use crate::cli::Options;
use crate::registry::settings::Settings;

pub fn findings(options: &Options) -> Vec<Finding> {
    match Settings::from_vars(&|name| std::env::var(name).ok()) {
        Ok(mut settings) => {
            settings.trust.extra.clone_from(&options.ca);
            vec![proxies(&settings), certificates(&settings), passwords(&settings)]
        }
        Err(e) => {
            vec![Finding::bad("proxies", e.to_string(), "no registry can be reached: correct or unset the variable")]
        }
    }
}

fn proxies(settings: &Settings) -> Finding {
    let about = "proxies";
    let ways = settings.proxies.describe();
    if ways.is_empty() {
        return Finding::good(
            about,
            "none is set; registries are asked directly (else: $https_proxy, $http_proxy, $no_proxy)",
        );
    }
    let except = ["no_proxy", "NO_PROXY"].iter().find(|name| std::env::var_os(name).is_some());
    let except = except.map_or(String::new(), |name| format!(", but for what ${name} names"));
    Finding::good(about, format!("{}{except}", ways.join(", ")))
}

fn certificates(settings: &Settings) -> Finding {
    let about = "certificates";
    match settings.trust.describe() {
        Ok((0, place)) => Finding::bad(
            about,
            format!("none in {place}"),
            "no registry is trusted: correct $SSL_CERT_FILE or $SSL_CERT_DIR, or use --ca FILE",
        ),
        Ok((n, place)) => Finding::good(about, format!("{n} authorities from {place}; for a site's own: --ca FILE")),
        Err(e) => Finding::bad(about, e.to_string(), "no registry is trusted: set $SSL_CERT_FILE, or use --ca FILE"),
    }
}

fn passwords(settings: &Settings) -> Finding {
    let about = "passwords";
    let there: Vec<_> = settings.credential_files.iter().filter(|path| path.is_file()).collect();
    let open = |path: &&&std::path::PathBuf| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0);
    let names = |paths: &[&std::path::PathBuf]| {
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    let exposed: Vec<_> = there.iter().filter(open).copied().collect();
    match (there.is_empty(), exposed.is_empty()) {
        (true, _) => Finding::good(about, "none are kept here; asked for at the terminal when a registry wants one"),
        (false, true) => Finding::good(about, format!("looked up in {}", names(&there))),
        (false, false) => Finding::limited(
            about,
            format!("others may read {}", names(&exposed)),
            format!("they can use your passwords: chmod 600 {}", names(&exposed)),
        ),
    }
}

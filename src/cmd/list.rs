//! `list`: what is in storage, or what is known of one image here and in its registry.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::remote::{Named, Remote, Remotes};
use super::{Host, print};
use crate::cli::Options;
use crate::error::Result;
use crate::log;
use crate::log::warning;
use crate::oci::arch::Arch;
use crate::oci::manifest::Document;
use crate::oci::reference::ImageRef;
use crate::oci::size::total;
use crate::registry::Accept;
use crate::storage::{Access, Image, Storage};

/// `list` without operand: images in storage, one line each.
pub fn storage(host: &Host, options: &Options) -> Result<()> {
    let Some(storage) = host.existing_storage(Access::Read)? else {
        return if options.json { print("[]\n") } else { Ok(()) };
    };
    let mut images = Vec::new();
    for image in storage.images()? {
        match image {
            // They are there to look inside after a failure, and few want to see them otherwise.
            Ok(image) if image.stage().is_some() && !options.all => {}
            Ok(image) => images.push(image),
            Err((name, e)) => warning!("damaged image: {}: {e}", log::escape(&name)),
        }
    }
    if options.json {
        let all: Vec<_> = images.iter().map(|i| as_json(&storage, i)).collect();
        return print(&format!("{:#}\n", serde_json::Value::Array(all)));
    }
    let mut text = String::new();
    for image in &images {
        text.push_str(&image.reference.storage_name());
        if !options.quiet {
            text.push_str(&format!(" ({})", arch(image)));
        }
        if options.long {
            text.push_str(&details(&storage, image));
        }
        text.push('\n');
    }
    print(&text)
}

fn arch(image: &Image) -> String {
    image.config.arch().map_or("unknown".to_owned(), |a| log::escape(a.as_str()).into_owned())
}

/// Bytes of all layers; those that are shared count for each image.
fn size(storage: &Storage, image: &Image) -> u64 {
    total(image.layers.iter().map(|id| storage.layer_info(id).map_or(0, |i| i.size)))
}

/// Where an image comes from: what it was built from, or the registry's name.
fn base(image: &Image) -> Option<String> {
    image.base.clone().or(image.source.as_ref().map(|s| s.reference.clone()))
}

fn details(storage: &Storage, image: &Image) -> String {
    let base = base(image).map_or(String::new(), |b| format!(", from {}", log::escape(&b)));
    let layers = image.layers.len();
    format!(
        " {}, {} old, {layers} layer{}{base}",
        bytes(size(storage, image)),
        age(seconds_since(image.made)),
        if layers == 1 { "" } else { "s" },
    )
}

fn as_json(storage: &Storage, image: &Image) -> serde_json::Value {
    json!({
        "name": image.reference.storage_name(),
        "arch": image.config.arch().map(|a| a.as_str().to_owned()),
        "size": size(storage, image),
        "made": image.made,
        "base": base(image),
        "digest": image.source.as_ref().map(|s| s.top.to_string()),
        "layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// `83.5 MiB`
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// How long ago that was.
pub fn seconds_since(made: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(made)
}

/// The largest unit that fits: `3 d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// `list REF`: the eight lines of the manual page.
pub fn details_of(host: &Host, options: &Options, image: &str) -> Result<()> {
    let reference = ImageRef::parse(image)?;
    let local = match host.existing_storage(Access::Read)? {
        Some(storage) => storage.image(&reference)?.is_some(),
        None => false,
    };
    let yes = |b| if b { "yes" } else { "no" };
    let full = reference.canonical_remote();
    if !options.json {
        // Before the registry is asked: without a network, too, this is known.
        let local = yes(local);
        print(&format!(
            "details of image:    {reference}\n\
             in local storage:    {local}\n\
             full remote ref:     {full}\n"
        ))?;
    }
    let remotes = Remotes::new(options, Named::Image(&reference))?;
    let remotes = if local { remotes.impatient() } else { remotes };
    let asked = remotes.first(&reference, |Remote { client, repository }| {
        client.manifest(repository, &reference.version(), Accept::Any)
    });
    let remote = match asked {
        Ok(remote) => remote,
        // What is here is known all the same.
        Err(e) if local => {
            warning!("can't ask the registry: {e}");
            return unknown(host, options, &reference);
        }
        Err(e) => return Err(e),
    };
    let document = remote.map(|(_, f)| Document::parse(&f.bytes, f.content_type.as_deref())).transpose();
    let document = document.map_err(|e| e.context(reference.canonical_remote()))?;
    let (aware, archs) = match &document {
        None => ("n/a", "n/a".to_owned()),
        Some(Document::Manifest(_)) => ("no", "unknown".to_owned()),
        Some(Document::Index(index)) => {
            let mut names: Vec<&str> = index.entries.iter().filter_map(|e| e.arch.as_ref()).map(Arch::as_str).collect();
            names.sort();
            names.dedup();
            ("yes", log::escape(&names.join(" ")).into_owned())
        }
    };
    if options.json {
        return print(&format!(
            "{:#}\n",
            json!({
                "name": reference.to_string(),
                "local": local,
                "remote": full,
                "available": document.is_some(),
                "arch_aware": matches!(document, Some(Document::Index(_))),
                "host_arch": host.arch().as_str(),
                "archs": if aware == "yes" { archs.split(' ').collect() } else { Vec::new() },
            })
        ));
    }
    let available = yes(document.is_some());
    print(&format!(
        "available remotely:  {available}\n\
         remote arch-aware:   {aware}\n\
         host architecture:   {}\n\
         archs available:     {archs}\n",
        host.arch()
    ))
}

/// The rest for an image that is here, where nobody could be asked.
fn unknown(host: &Host, options: &Options, reference: &ImageRef) -> Result<()> {
    if options.json {
        return print(&format!(
            "{:#}\n",
            json!({
                "name": reference.to_string(),
                "local": true,
                "remote": reference.canonical_remote(),
                "available": null,
                "arch_aware": null,
                "host_arch": host.arch().as_str(),
                "archs": [],
            })
        ));
    }
    print(&format!(
        "available remotely:  unknown\n\
         remote arch-aware:   unknown\n\
         host architecture:   {}\n\
         archs available:     unknown\n",
        host.arch()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(83 * 1024 * 1024 + 512 * 1024), "83.5 MiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
        assert_eq!(age(59), "59 s");
        assert_eq!(age(3 * 86400), "3 d");
    }
}

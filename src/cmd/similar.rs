//! Which image in storage was probably meant? For hints about one that is not there.

use crate::nearest::nearest;
use crate::oci::reference::ImageRef;
use crate::storage::Storage;

/// What to say of an image that is not in storage.
pub fn hint(storage: &Storage, reference: &ImageRef) -> String {
    let images = storage.images().unwrap_or_default().into_iter().flatten().filter(|image| image.stage().is_none());
    let names: Vec<String> = images.map(|image| image.reference.storage_name()).collect();
    match find(&reference.storage_name(), &names) {
        Some(name) => format!("did you mean {name}? ch-image list shows what there is"),
        None => "ch-image list shows what there is".to_owned(),
    }
}

/// The same image with another tag comes before one of a similar name.
fn find<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let tagged = names.iter().find(|name| untagged(name) == untagged(wanted) && *name != wanted);
    let near = || nearest(wanted, names.iter().map(String::as_str));
    let near_untagged = || {
        let near = nearest(untagged(wanted), names.iter().map(|name| untagged(name)))?;
        names.iter().find(|name| untagged(name) == near).map(String::as_str)
    };
    tagged.map(String::as_str).or_else(near).or_else(near_untagged)
}

fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_that_was_meant() {
        let names = ["debian:bookworm", "hello:latest", "example.com:5000/hello:1"].map(str::to_owned);
        let check = |wanted: &str, want: Option<&str>| assert_eq!(find(wanted, &names), want, "{wanted}");
        check("debian:latest", Some("debian:bookworm"));
        check("debain:bookworm", Some("debian:bookworm"));
        check("debain:latest", Some("debian:bookworm"));
        check("helo:latest", Some("hello:latest"));
        check("example.com:5000/helo:1", Some("example.com:5000/hello:1"));
        check("quite-another:latest", None);
    }
}

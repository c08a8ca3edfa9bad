//! Text that is overwritten when it is not needed any more, so that nobody finds it in freed memory.
//!
//! What others copy of it (a connection's buffers, a parsed file) is not reached: besides, no process with it can be
//! looked into by the commands that it starts (`process::set_dumpable`).

use std::fmt;
use std::ops::Deref;

/// A password or token. Does not show itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("REDACTED")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites all that the text has memory for, and leaves it empty.
fn wipe(text: &mut String) {
    text.clear();
    // SAFETY: no byte of the vector counts as a character any more, so it stays valid UTF-8.
    let room = unsafe { text.as_mut_vec() }.spare_capacity_mut();
    for byte in room {
        // SAFETY: `byte` is valid for writing. Volatile, since nobody reads it.
        unsafe { std::ptr::write_volatile(byte.as_mut_ptr(), 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_overwritten() {
        let mut text = String::with_capacity(64);
        text.push_str("longer than what it is in the end");
        text.truncate(3);
        wipe(&mut text);
        let (start, room) = (text.as_ptr(), text.capacity());
        // SAFETY: the memory is the string's, and all of it was written.
        let bytes = unsafe { std::slice::from_raw_parts(start, room) };
        assert!(room >= 64 && text.is_empty() && bytes.iter().all(|byte| *byte == 0));
        assert_eq!(format!("{:?}", Secret::from("x")), "REDACTED");
    }
}

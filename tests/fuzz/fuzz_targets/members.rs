//! Any bytes as a tar archive: members and their content end, and no more content comes than the archive holds.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/sys"]
mod sys {
    pub mod file;
    pub mod fs;
    pub(crate) fn cvt<T: PartialEq + From<i8>>(value: T) -> std::io::Result<T> {
        if value == T::from(-1) { Err(std::io::Error::last_os_error()) } else { Ok(value) }
    }
}
#[path = "../../../src/rootfs"]
mod rootfs {
    mod pax;
    mod sparse;
    pub mod tar_reader;
    /// Stands for the whole of path resolution, of which members need but this.
    mod root {
        pub fn show(path: &[u8]) -> String {
            path.escape_ascii().to_string()
        }
    }
}

use rootfs::tar_reader::TarReader;

fuzz_target!(|data: &[u8]| {
    let mut input = data;
    let mut members = TarReader::new(&mut input);
    let mut content = 0;
    while let Ok(Some(member)) = members.next_member() {
        assert!(!member.name.is_empty() && !member.name.contains(&0));
        loop {
            match members.chunk() {
                Ok([]) => break,
                Ok(chunk) => content += chunk.len(),
                Err(_) => return,
            }
        }
    }
    assert!(content <= data.len());
});

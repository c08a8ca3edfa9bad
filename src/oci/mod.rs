//! What do names and documents mean? Pure: bytes in, typed values out; no files, no network, no clock, no environment.

pub mod arch;
pub mod base64;
pub mod config;
pub mod digest;
pub mod json;
pub mod manifest;
pub mod reference;
pub mod saved;
pub mod size;

//! Any bytes as a manifest, index or configuration: read or refused; what we write of it reads the same.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/oci"]
mod oci {
    pub mod arch;
    mod base64;
    pub mod config;
    pub mod digest;
    pub mod json;
    pub mod manifest;
}

use oci::config::Config;
use oci::manifest::Document;

fuzz_target!(|data: &[u8]| {
    if let Ok(Document::Manifest(manifest)) = Document::parse(data, None) {
        assert!(Document::parse(&manifest.to_json(), None).is_ok());
    }
    if let Ok(config) = Config::parse(data) {
        let _ = (config.arch(), config.diff_ids(), config.history(), config.env(), config.working_dir());
        assert!(Config::parse(&config.to_json()).is_ok());
    }
});

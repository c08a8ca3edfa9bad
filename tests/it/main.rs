//! The integration tests: one binary, so that the harness is compiled and linked once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod build;
mod build_cache;
mod build_cases;
mod build_file;
mod build_jobs;
mod build_peers;
mod build_show;
mod ch_run;
mod crash;
mod debian;
mod doctor;
mod exported;
mod faults_crash;
mod faults_exchange;
mod faults_input;
mod faults_layers;
mod faults_many;
mod faults_repair;
mod faults_signals;
mod faults_space;
mod faults_storage;
mod forbidden;
mod force;
mod harness;
mod images;
mod interop;
mod join;
mod messages;
mod options;
mod owners;
mod packed;
mod packed_runs;
mod registry;
mod registry_logins;
mod registry_mirrors;
mod registry_odd;
mod registry_pull;
mod registry_push;
mod registry_servers;
mod registry_terminal;
mod run_isolation;
mod saved;
mod tidy;
mod usage;

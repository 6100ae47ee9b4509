//! Tests of the command line program. They are one binary, to link only once.

mod calibration;
mod commands;
mod compare;
mod data;
mod data_as_it_comes;
mod demo;
mod doctor;
mod errors;
mod flags;
mod help;
mod init;
mod interrupted;
mod json;
mod keys;
mod layouts;
mod precision;
mod runs;
mod support;
mod train;
mod tune;
mod tutorial;
mod usage;
mod warm;

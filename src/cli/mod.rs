//! Floor 7: the command line of an App's binary.

mod args;
mod node;
mod run;

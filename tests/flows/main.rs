//! Flows: the causes of reactions, the names and handles of children, and the propagation of failures.

mod children;
mod errors;
mod fences;
mod moves;
mod nested;
mod reactions;
mod schedule;
mod supervision;
mod support;

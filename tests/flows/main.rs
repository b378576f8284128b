//! Flows: what makes them react, how they name and hold their children, and what becomes of failures.

mod children;
mod errors;
mod fences;
mod moves;
mod nested;
mod reactions;
mod schedule;
mod supervision;
mod support;

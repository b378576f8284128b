//! Floor 4: Works in other processes and on other machines.
#![expect(dead_code, reason = "being put together")]

mod session;

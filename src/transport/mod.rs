//! Floor 2: connections between processes.
#![expect(dead_code, reason = "being put together")]

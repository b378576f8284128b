//! says: `Nothing` cannot be the root of an App
//! says: neither a Flow nor a Work whose input has a default

use flowright::prelude::*;

#[derive(Default)]
struct Nothing;

fn main() -> ExitCode {
    App::new(Nothing::default).main()
}

//! The stream of events.

use super::serve;
use crate::support::*;

crate::tests![
    events_begin_with_everything_and_patches_keep_it_true,
    a_client_that_comes_back_goes_on_where_it_was,
];

fn events_begin_with_everything_and_patches_keep_it_true() {
    let served = serve();
    let mut events = Events::open(served.address);
    assert_eq!(events.some()[0].name, "snapshot");
    for value in 8..30 {
        served.turn(value);
        events.until(|document| document["state"]["dials"][0]["value"] == value);
    }
    assert_eq!(events.missed, 0);
    let shown = served.get("/api/v1/status");
    for part in ["works", "flows"] {
        assert_eq!(events.document[part], shown[part], "{part}");
    }
    assert_eq!(events.document["state"], served.get("/api/v1/state")["state"]);
    served.stop();
}

fn a_client_that_comes_back_goes_on_where_it_was() {
    let served = serve();
    let mut events = Events::open(served.address);
    events.some();
    let (seen, document) = (events.last, events.document.clone());
    drop(events);
    served.turn(8);
    served.wait_for(|document| document["state"]["dials"][0]["value"] == 8);
    let mut back = Events::open_with(served.address, &format!("Last-Event-ID: {seen}\r\n"));
    back.document = document;
    assert_eq!(back.some()[0].name, "patch");
    back.until(|document| document["state"]["dials"][0]["value"] == 8);
    // Ids from another server, and invalid ones.
    for id in ["7", "x", "99999999999999999999", "18446744073709551615"] {
        let mut anew = Events::open_with(served.address, &format!("Last-Event-ID: {id}\r\n"));
        anew.until(|document| document["state"]["dials"][0]["value"] == 8);
    }
    served.stop();
}

//! Two heads of one App: an old one that goes on although it was replaced, and one with a copy of the journal.

use crate::adopted::{ALL_ONCE, LONG, Site, busy, finish};
use crate::process::Process;
use crate::proxy::Proxy;
use crate::support::free_address;

crate::tests![
    head_that_was_replaced_has_no_effect,
    head_with_a_copy_of_the_journal_has_no_effect,
    node_waits_for_its_head_beside_another_app,
];

/// A site whose nodes join by way of a proxy, which can lead them to another head.
fn behind_a_proxy() -> (Site, Proxy) {
    let mut site = Site::new(LONG);
    let proxy = Proxy::to(&site.address);
    site.joining = proxy.address().to_owned();
    (site, proxy)
}

/// Copies a directory without subdirectories.
fn copy(site: &Site, from: &str, to: &str) {
    std::fs::create_dir(site.path(to)).expect("nothing has that name");
    for entry in std::fs::read_dir(site.path(from)).expect("the directory is there") {
        let entry = entry.expect("the directory can be listed");
        std::fs::copy(entry.path(), site.path(to).join(entry.file_name())).expect("the disk has room");
    }
}

/// Waits until both nodes have been refused by another head and their own one has them again.
#[track_caller]
fn led_astray_and_back(
    proxy: &Proxy,
    (other, refusal): (&str, &str),
    own: &str,
    other_head: &mut Process,
    nodes: &mut [&mut Process],
) {
    proxy.lead_to(other);
    for node in &mut *nodes {
        node.expect_again("another head is at");
    }
    other_head.expect(refusal);
    proxy.lead_to(own);
    for node in nodes {
        node.expect_again("connected to the head again; nothing was lost");
    }
}

/// A head that is stopped by a signal is replaced by one that has a copy of its journal. When it goes on, and even when
/// the nodes are led to it again, nothing of it counts: they refuse it, and go back to the later one with nothing lost.
fn head_that_was_replaced_has_no_effect() {
    let (site, proxy) = behind_a_proxy();
    let (mut old, mut n, mut m) = busy(&site);
    old.signal("STOP");
    copy(&site, "journal", "copy");
    let address = free_address();
    let mut head = site.head_at(&address, &site.path("copy"));
    head.expect("nodes join at");
    proxy.lead_to(&address);
    head.expect("adopted 2 Works on node `n`");
    head.expect("adopted 1 Work on node `m`");
    old.signal("CONT");
    let refusal = "a later head has replaced this one: this head opened the journal of the App as number 1";
    led_astray_and_back(&proxy, (&site.address, refusal), &address, &mut old, &mut [&mut n, &mut m]);
    finish(&site, head);
    site.once(ALL_ONCE);
}

/// Of two heads with copies of one journal, a node obeys the one that has taken it over, and refuses the other one.
fn head_with_a_copy_of_the_journal_has_no_effect() {
    let (site, proxy) = behind_a_proxy();
    let (old, mut n, mut m) = busy(&site);
    old.signal("KILL");
    drop(old);
    copy(&site, "journal", "copy");
    let mut head = site.head();
    head.expect("adopted 2 Works on node `n`");
    head.expect("adopted 1 Work on node `m`");
    let address = free_address();
    let mut other = site.head_at(&address, &site.path("copy"));
    other.expect("nodes join at");
    let refusal = "this head opened a copy of the journal of the App as number 2";
    led_astray_and_back(&proxy, (&address, refusal), &site.address, &mut other, &mut [&mut n, &mut m]);
    finish(&site, head);
    site.once(ALL_ONCE);
}

/// A node that finds another App at the address of its head keeps its Works, and goes back to its head.
fn node_waits_for_its_head_beside_another_app() {
    let (site, proxy) = behind_a_proxy();
    let (head, mut n, mut m) = busy(&site);
    let address = free_address();
    let mut other = site.head_at(&address, &site.path("other"));
    other.expect("nodes join at");
    let refusal = "this is another run of the App";
    led_astray_and_back(&proxy, (&address, refusal), &site.address, &mut other, &mut [&mut n, &mut m]);
    finish(&site, head);
    site.once(ALL_ONCE);
}

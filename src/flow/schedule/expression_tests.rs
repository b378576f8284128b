use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::*;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// The second zone changes to summer time on another date than the first, the third changes by half an hour, the fourth
/// does not change and has an offset that is not a full hour, and the last has skipped a day.
const ZONES: [&str; 6] =
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC", "Pacific/Apia"];

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// Parses an instant such as `2026-03-29T00:00:00Z`.
fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn occurrences(expression: &str, zone: &TimeZone, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let expression = Expression::parse(expression).unwrap();
    let mut found = Vec::new();
    let mut last = from;
    while let Some(next) = expression.following(zone, last).filter(|next| *next <= to) {
        assert!(next > last, "{expression:?} after {last} is {next}");
        found.push(next);
        last = next;
    }
    found
}

/// Returns the times that a clock in the zone shows at the occurrences.
fn shown(expression: &str, name: &str, from: &str, to: &str) -> Vec<String> {
    let zone = zone(name);
    let found = occurrences(expression, &zone, at(from), at(to));
    found.iter().map(|time| time.to_zoned(zone.clone()).strftime("%d %H:%M%:z").to_string()).collect()
}

/// Matching minutes, hours, days of the month and months.
#[derive(Debug, Clone)]
struct Fields {
    minutes: Vec<i8>,
    hours: Vec<i8>,
    days: Vec<i8>,
    months: Vec<i8>,
}

impl Fields {
    fn matches(&self, civil: DateTime) -> bool {
        civil.second() == 0
            && self.minutes.contains(&civil.minute())
            && self.hours.contains(&civil.hour())
            && self.days.contains(&civil.day())
            && self.months.contains(&civil.month())
    }

    fn expression(&self) -> String {
        let list = |values: &[i8]| values.iter().map(i8::to_string).collect::<Vec<_>>().join(",");
        let (minutes, hours) = (list(&self.minutes), list(&self.hours));
        format!("{minutes} {hours} {} {} *", list(&self.days), list(&self.months))
    }

    /// Walks through every minute with a clock. An interval occurs when the clock shows a match; fixed times occur when
    /// the clock reaches or passes a match for the first time.
    fn walk(&self, zone: &TimeZone, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let interval = self.hours.len() == 24;
        let mut found = Vec::new();
        // Times shown before the walk count as seen; no clock goes back by more than a day.
        let mut time = from - SignedDuration::from_hours(26);
        let mut furthest = zone.to_datetime(time);
        while time < to {
            time += MINUTE;
            let civil = zone.to_datetime(time);
            let mut occurs = interval && self.matches(civil);
            while furthest < civil {
                furthest = furthest.saturating_add(MINUTE);
                occurs |= !interval && self.matches(furthest);
            }
            if occurs && time > from {
                found.push(time);
            }
        }
        found
    }
}

fn some(values: RangeInclusive<i8>) -> impl Strategy<Value = Vec<i8>> {
    let all: Vec<i8> = values.collect();
    let most = all.len().min(6);
    prop_oneof![
        2 => Just(all.clone()),
        1 => proptest::sample::select(all.clone()).prop_map(|one| vec![one]),
        2 => proptest::sample::subsequence(all, 1..=most),
    ]
}

fn fields() -> impl Strategy<Value = Fields> {
    // Clocks change at night.
    let hours = prop_oneof![some(0..=23), some(0..=3)];
    (some(0..=59), hours, some(1..=31), some(1..=12)).prop_map(|(minutes, hours, days, months)| Fields {
        minutes,
        hours,
        days,
        months,
    })
}

/// The beginnings of some days in a zone, most of them near a change of the clock between 1990 and 2060.
fn days() -> impl Strategy<Value = (&'static str, Timestamp)> {
    let second = at("1990-01-01T00:00:00Z").as_second()..at("2060-01-01T00:00:00Z").as_second();
    (proptest::sample::select(&ZONES[..]), second, any::<bool>()).prop_map(|(name, second, change)| {
        let time = Timestamp::from_second(second).unwrap();
        let zone = zone(name);
        let next = zone.following(time).next().filter(|_| change);
        let time = next.map_or(time, |next| next.timestamp() - SignedDuration::from_hours(36));
        (name, Timestamp::from_second(time.as_second().div_euclid(60) * 60).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The search finds exactly the occurrences that a clock shows minute by minute.
    #[test]
    fn occurrences_are_those_of_a_clock_that_is_watched((name, from) in days(), fields in fields()) {
        let (zone, to) = (zone(name), from + SignedDuration::from_hours(24 * 3));
        let found = occurrences(&fields.expression(), &zone, from, to);
        let expected = fields.walk(&zone, from, to);
        let differ = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        prop_assert!(differ.is_none() && found.len() == expected.len(), "{} in {name}: {differ:?}", fields.expression());
    }

    /// The search finds the same occurrences from any start.
    #[test]
    fn first_occurrence_is_the_same_from_any_instant(
        (name, from) in days(), fields in fields(), second in 0_i64..180_000, nano in 0_i64..1_000_000_000,
    ) {
        let (zone, to) = (zone(name), from + SignedDuration::from_hours(24 * 3));
        let after = from + SignedDuration::from_secs(second) + SignedDuration::from_nanos(nano);
        let expected = fields.walk(&zone, from, to).into_iter().find(|time| *time > after);
        let found = Expression::parse(&fields.expression()).unwrap().following(&zone, after);
        prop_assert_eq!(found.filter(|found| *found <= to), expected);
    }
}

/// A fixed time occurs once on each calendar day, of which Apia has had one fewer.
#[test]
fn fixed_times_come_once_a_day_over_years() {
    for name in ZONES {
        let zone = zone(name);
        for hour in [0, 1, 2, 3, 9, 23] {
            let from = DateTime::constant(2010, 7, 1, 0, 0, 0, 0);
            let to = DateTime::constant(2014, 7, 1, 0, 0, 0, 0);
            let [from, to] =
                [from, to].map(|day| zone.to_timestamp(day).unwrap() - SignedDuration::from_nanos(1));
            let found = occurrences(&format!("30 {hour} * * *"), &zone, from, to);
            assert_eq!(found.len(), 4 * 365 + 1, "{hour}:30 in {name}");
        }
    }
}

/// An interval that divides the changes of the clock occurs evenly for a year.
#[test]
fn intervals_come_evenly_over_a_year() {
    for (name, hour) in ZONES.into_iter().flat_map(|name| [(name, false), (name, true)]) {
        // Half an hour is not a multiple of an hour.
        let (expression, every) = match hour {
            true if name == "Australia/Lord_Howe" => continue,
            true => ("hourly", 60),
            false => ("*/10 * * * *", 10),
        };
        let (from, to) = (at("2011-01-01T00:14:59Z"), at("2012-01-01T00:14:59Z"));
        let found = occurrences(expression, &zone(name), from, to);
        let evenly = SignedDuration::from_mins(every);
        assert!(
            found.windows(2).all(|pair| pair[1].duration_since(pair[0]) == evenly),
            "{expression} in {name}"
        );
        assert_eq!(found.len() as i64, 365 * 24 * 60 / every, "{expression} in {name}");
    }
}

/// Every second occurs, both in a night with a repeated hour and in a night with a skipped hour.
#[test]
fn every_second_comes_over_both_changes() {
    for night in ["2026-03-29", "2026-10-25"] {
        let (from, to) = (at(&format!("{night}T00:00:00Z")), at(&format!("{night}T03:00:00Z")));
        for expression in ["* * * * * *", "*/1 * * * * *"] {
            let found = occurrences(expression, &zone("Europe/Berlin"), from, to);
            assert_eq!(found.len(), 3 * 60 * 60, "{expression}");
        }
    }
}

#[test]
fn skipped_time_comes_at_the_end_of_the_gap() {
    let spring =
        |expression| shown(expression, "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
    assert_eq!(spring("30 2 * * *"), ["29 03:00+02:00", "30 02:30+02:00"]);
    assert_eq!(spring("0 2,3 * * *"), ["29 03:00+02:00", "30 02:00+02:00", "30 03:00+02:00"]);
    assert_eq!(spring("30 1 * * *"), ["29 01:30+01:00", "30 01:30+02:00"]);
    let apia = shown("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", "2012-01-01T12:00:00Z");
    assert_eq!(apia, ["29 09:00-10:00", "31 00:00+14:00", "31 09:00+14:00", "01 09:00+14:00"]);
}

#[test]
fn repeated_time_comes_the_first_time_only() {
    let autumn =
        |expression| shown(expression, "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    assert_eq!(autumn("30 2 * * *"), ["25 02:30+02:00", "26 02:30+01:00"]);
    assert_eq!(autumn("0 2,14 * * *"), ["25 02:00+02:00", "25 14:00+01:00", "26 02:00+01:00"]);
    let lord_howe =
        |expression| shown(expression, "Australia/Lord_Howe", "2026-04-04T00:00:00Z", "2026-04-05T00:00:00Z");
    assert_eq!(lord_howe("45 1 * * *"), ["05 01:45+11:00"]);
    assert_eq!(lord_howe("0 2 * * *"), ["05 02:00+10:30"]);
}

#[test]
fn expression_without_a_time_never_matches() {
    for never in ["0 0 30 2 *", "* * 31 2,4,6,9,11 *", "0 0 0 30 2 *", "0 0 31 6 *"] {
        assert!(!Expression::parse(never).unwrap().matches_ever(), "{never}");
    }
    for rare in ["0 0 29 2 *", "* * 29 2 *", "0 0 0 29 2 1 *", "0 0 0 1 1 * 2020", "0 0 1 1 *"] {
        assert!(Expression::parse(rare).unwrap().matches_ever(), "{rare}");
    }
}

#[test]
fn rare_occurrence_is_found_across_many_changes() {
    let leap_day =
        |expression| shown(expression, "Europe/Berlin", "2096-03-01T00:00:00Z", "2104-02-29T00:30:00Z");
    assert_eq!(leap_day("0 0 29 2 *"), ["29 00:00+01:00"]);
    assert_eq!(leap_day("0 * 29 2 *"), ["29 00:00+01:00", "29 01:00+01:00"]);
}

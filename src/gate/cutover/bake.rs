//! What a bake comes to. It is good only if the new pool was measured in it: by enough requests of users, by the triggers, and by nothing that
//! happened before it.
//!
//! Argo Rollouts and Flagger count a time without samples, or with too few, as passed. Here it makes the bake longer, and then a person decides.

use super::gates::{Gate, Verdict};
use super::triggers::{Limits, Rule, Tally, Watch};

/// So many failures hold a bake also where the samples are too few for a trigger. A few failures of a few requests may be chance.
const FEW: u64 = 5;

/// What a bake comes to: `Pass`, or `Inconclusive` with what is missing.
///
/// `watch` holds what the new pool did since the bake began, `smoke` what smoke requests say; they stand for users' requests where there are too few.
pub fn bake(watch: &Watch, baseline: &Tally, limits: &Limits, min_samples: u64, smoke: Option<Verdict>) -> Gate {
    let lack = |detail: String| Gate::new("bake", Verdict::Inconclusive, detail);
    if smoke == Some(Verdict::Fail) {
        return lack("smoke requests fail".to_owned());
    }
    let total = watch.total();
    for rule in Rule::all(limits) {
        let most = rule.limit(baseline, min_samples);
        let samples = (rule.samples)(&total);
        let counts = samples >= min_samples || (rule.bad)(&total, most) >= FEW;
        if counts && (rule.value)(&total) > most {
            let measured = rule.measured(&total, most);
            return lack(format!("{}: {measured}, of {samples} samples in the bake", rule.name));
        }
        let last = watch.last(&rule, min_samples);
        if let Some(last) = last.first().filter(|last| (rule.value)(last) > most) {
            let measured = rule.measured(last, most);
            return lack(format!("{}: {measured}, in its last window", rule.name));
        }
    }
    if total.requests >= min_samples {
        let detail = format!("{} requests in the bake", total.requests);
        return Gate::new("bake", Verdict::Pass, detail);
    }
    if smoke == Some(Verdict::Pass) {
        return Gate::new("bake", Verdict::Pass, "smoke requests pass");
    }
    lack(format!("{} of {min_samples} requests in the bake", total.requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(requests: u64, errors: u64) -> Tally {
        Tally {
            requests,
            errors,
            ..Tally::default()
        }
    }

    /// The bake of these windows, the last one under way.
    fn baked(windows: &[Tally], smoke: Option<Verdict>) -> (Verdict, String) {
        let mut watch = Watch::default();
        if let Some((running, passed)) = windows.split_last() {
            passed.iter().for_each(|window| watch.note(*window));
            watch.go_on(*running);
        }
        let gate = bake(&watch, &tally(1_000, 0), &Limits::default(), 50, smoke);
        (gate.verdict, gate.detail)
    }

    #[test]
    fn no_traffic_is_never_a_pass() {
        assert_eq!(baked(&[], None).1, "0 of 50 requests in the bake");
        assert_eq!(baked(&[], None).0, Verdict::Inconclusive);
        assert_eq!(baked(&[], Some(Verdict::Inconclusive)).0, Verdict::Inconclusive);
        assert_eq!(baked(&[], Some(Verdict::Pass)).0, Verdict::Pass);
        assert_eq!(baked(&[tally(40, 0), tally(10, 0)], None).0, Verdict::Pass);
        assert_eq!(baked(&[tally(50, 0)], Some(Verdict::Fail)).0, Verdict::Inconclusive);
    }

    #[test]
    fn requests_that_fail_are_never_a_pass_however_few_they_are() {
        for windows in [
            vec![tally(60, 60)],
            vec![tally(2, 2); 10],
            vec![tally(30, 0), tally(30, 30)],
        ] {
            for smoke in [None, Some(Verdict::Pass)] {
                let (verdict, detail) = baked(&windows, smoke);
                assert_eq!(verdict, Verdict::Inconclusive, "{windows:?}");
                assert!(detail.contains("errors: "), "{detail}");
            }
        }
        assert_eq!(
            baked(&[tally(40, 4)], Some(Verdict::Pass)).0,
            Verdict::Pass,
            "a few may be chance"
        );
    }

    #[test]
    fn streams_that_break_hold_a_bake_whose_requests_are_well() {
        let window = |streams, aborts| Tally {
            requests: 100,
            streams,
            aborts,
            ..Tally::default()
        };
        assert_eq!(baked(&[window(8, 8)], None).0, Verdict::Inconclusive);
        assert_eq!(baked(&[window(8, 1)], None).0, Verdict::Pass);
        assert_eq!(baked(&[window(0, 0)], None).0, Verdict::Pass);
    }

    #[test]
    fn a_bake_that_ends_badly_is_not_good_though_it_was_on_the_whole() {
        let good = tally(10_000, 0);
        let windows = [good, good, tally(100, 50), tally(0, 0)];
        let (verdict, detail) = baked(&windows, None);
        assert_eq!(verdict, Verdict::Inconclusive);
        assert_eq!(detail, "errors: 50.0 %, at most 2.0 %, in its last window");
    }
}

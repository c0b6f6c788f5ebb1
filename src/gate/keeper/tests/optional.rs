//! Optional probes, under virtual time.

use super::*;

fn plan() -> Vec<EndpointPlan> {
    let mut plans = plans(1, 2, &Arc::default());
    plans[0].probes[1] = Arc::new(ProbePlan {
        optional: true,
        ..ProbePlan::default()
    });
    plans
}

fn refused() -> Arc<ProbeReport> {
    report(Outcome::Fail {
        class: FailureClass::Connect,
        detail: "refused".into(),
    })
}

fn answered(outcome: Outcome, status: u16) -> Arc<ProbeReport> {
    let mut answered = report(outcome);
    Arc::make_mut(&mut answered).status = Some(status);
    answered
}

#[test]
fn who_never_answered_is_not_there_and_who_did_is_away_for_half_a_minute() {
    let (mut keeper, start) = (Keeper::new(7), World::of(1, 1).start);
    let slot = keeper.reconcile(plan(), start)[0];
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let ticket = |probe| Ticket {
        slot,
        probe,
        sequence: 1,
    };
    let mut said = |probe, report: Arc<ProbeReport>, seconds| {
        let outcome = keeper.interpret(ticket(probe), report, at(seconds)).outcome.clone();
        outcome.as_str()
    };
    assert_eq!(said(0, refused(), 0), "fail", "the process must be there");
    assert_eq!(said(1, refused(), 0), "absent");
    let missing = Outcome::Misconfigured { detail: "404".into() };
    assert_eq!(
        said(1, answered(missing, 404), 1),
        "absent",
        "somebody else listens there"
    );
    let mut accepted = report(Outcome::Fail {
        class: FailureClass::Timeout,
        detail: "silent".into(),
    });
    assert_eq!(said(1, accepted.clone(), 2), "absent", "a firewall is silent as well");
    Arc::make_mut(&mut accepted).phases.connected = Some(MS);
    assert_eq!(said(1, accepted, 3), "fail", "somebody is there");
    assert_eq!(said(1, answered(Outcome::Pass, 200), 4), "pass");
    assert_eq!(said(1, refused(), 5), "unknown");
    assert_eq!(said(1, refused(), 34), "unknown");
    assert_eq!(said(1, refused(), 35), "absent");
}

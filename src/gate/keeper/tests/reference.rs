//! A naive model of the same rules, which keeps every answer and works everything out anew each time, beside the real machine.
//!
//! It knows probes and the operator, and no traffic, so that each of its rules is one line. Its own way to tell a verdict is another one: not by
//! counting as it goes, but by looking for the last streak that decided.

use proptest::prelude::*;

use super::*;
use crate::gate::flapping::FlapRules;
use crate::gate::overrides::Wish;

/// All that has been said about one endpoint.
#[derive(Default)]
struct Heard {
    /// Whether each answer was a pass; what is no evidence is not among them.
    answers: Vec<bool>,
    /// The operator's word.
    word: Option<Wish>,
}

const RISE: usize = 2;
const FALL: usize = 2;

impl Heard {
    fn note(&mut self, answer: Answer) {
        match answer {
            Answer::Healthy => self.answers.push(true),
            Answer::Refuses => self.answers.push(false),
            Answer::Silent
            | Answer::NotFound
            | Answer::Unresolvable
            | Answer::Sheds(_)
            | Answer::Lacks(_)
            | Answer::Places { .. }
            | Answer::Frozen
            | Answer::Clogged(_) => {}
        }
    }

    /// Where the last streak of this length of one kind of answer ends.
    fn last_streak(&self, kind: bool, length: usize) -> Option<usize> {
        (length..=self.answers.len())
            .rev()
            .find(|end| self.answers[end - length..*end].iter().all(|answer| *answer == kind))
    }

    /// Fit, down, or neither yet.
    fn verdict(&self) -> State {
        if let Some(word) = self.word {
            return word.state();
        }
        let fell = self.last_streak(false, FALL);
        // The very first pass counts at once, where nothing had brought the endpoint down before.
        let first = self.answers.iter().position(|pass| *pass).map(|at| at + 1);
        let first = first.filter(|first| fell.is_none_or(|_| self.last_streak_before(*first).is_none()));
        let rose = self.last_streak(true, RISE).max(first);
        match (rose, fell) {
            (None, None) => State::Unknown,
            (Some(rose), Some(fell)) if fell > rose => State::Down,
            (Some(_), _) => State::Up,
            (None, Some(_)) => State::Down,
        }
    }

    /// Whether the endpoint was brought down before the answer that ends at `end`.
    fn last_streak_before(&self, end: usize) -> Option<usize> {
        (FALL..end).find(|at| self.answers[at - FALL..*at].iter().all(|pass| !*pass))
    }
}

/// A state as the model knows it: it has no slow start.
fn plain(state: State) -> State {
    match state {
        State::Ramping => State::Up,
        State::Up
        | State::Busy
        | State::Degraded
        | State::Suspect
        | State::Ejected
        | State::Unknown
        | State::Down
        | State::Draining
        | State::Maintenance => state,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Answer(usize, u8),
    Say(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..4, 0u8..7).prop_map(|(endpoint, answer)| Step::Answer(endpoint, answer)),
        1 => (0usize..4, 0u8..3).prop_map(|(endpoint, word)| Step::Say(endpoint, word)),
    ]
}

/// Gives the endpoint's open question this answer at once, and lets the keeper put the next one.
fn answer(world: &mut World, heard: &mut [Heard], endpoint: usize, number: u8) {
    if heard[endpoint].word == Some(Wish::Maintain) {
        return;
    }
    world.answers[endpoint] = match number {
        0..=2 => Answer::Healthy,
        3..=5 => Answer::Refuses,
        _ => Answer::Unresolvable,
    };
    let before = world.known()[endpoint].history.back().map(|record| record.at);
    let mut asked = 0;
    // An answer older than the one that is wanted may come first.
    loop {
        world.run(1);
        let last = world.known()[endpoint].history.back().map(|record| record.at);
        asked += 1;
        if last != before || asked > 10_000 {
            break;
        }
    }
    heard[endpoint].note(world.answers[endpoint]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_and_the_model_agree(first in 0u8..7, steps in prop::collection::vec(step(), 1..40)) {
        let flapping = FlapRules { changes: 0, ..FlapRules::default() };
        let terms = Terms { flapping, ..Terms::default() };
        // One endpoint a world, so that each answer is the one that was meant, and nobody waits for a turn.
        for endpoint in 0..4 {
            let mut world = World::with(1, 1, Arc::new(terms.clone()));
            let mut heard = vec![Heard::default()];
            answer(&mut world, &mut heard, 0, first);
            for step in &steps {
                match *step {
                    Step::Answer(at, number) if at == endpoint => answer(&mut world, &mut heard, 0, number),
                    Step::Say(at, word) if at == endpoint => {
                        let wish = [None, Some(Wish::Drain), Some(Wish::Maintain)][usize::from(word)];
                        let was_maintained = heard[0].word == Some(Wish::Maintain);
                        match wish {
                            Some(wish) => world.say(0, wish, None),
                            None => {
                                let now = world.now;
                                world.keeper.handle_enable(slot(0), now);
                            }
                        }
                        if was_maintained && wish != Some(Wish::Maintain) {
                            // What was known before a maintenance is of no use after it.
                            heard[0].answers.clear();
                            world.run(5);
                            heard[0].note(world.answers[0]);
                        }
                        heard[0].word = wish;
                    }
                    Step::Answer(..) | Step::Say(..) => {}
                }
                prop_assert_eq!(plain(world.states()[0]), heard[0].verdict(), "after {:?}", step);
            }
        }
    }
}

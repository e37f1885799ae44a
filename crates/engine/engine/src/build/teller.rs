//! Where a build tells how it goes. Stages are built side by side and told one after the other, in the order of the
//! plan, so that a reader finds each stage's steps together.

use super::BuildStep;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// Output of one stage that waits for its turn; of more the beginning is dropped. As much as BuildKit shows of a step.
const HELD_BYTES_MAX: usize = 2 << 20;

/// One stage's way to whoever listens. They may leave: the build is then ended by its owner.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    steps: mpsc::Sender<BuildStep>,
    turns: Arc<Mutex<Turns>>,
    position: usize,
}

#[derive(Debug, Default)]
struct Turns {
    /// Whose turn it is.
    current: usize,
    stages: Vec<Held>,
}

/// What a stage has told before its turn.
#[derive(Debug, Default)]
struct Held {
    steps: VecDeque<BuildStep>,
    bytes: usize,
    is_ended: bool,
}

impl Teller {
    pub(super) fn new(steps: mpsc::Sender<BuildStep>) -> Self {
        Self {
            steps,
            turns: Arc::default(),
            position: 0,
        }
    }

    /// For the stage at a position of the plan.
    pub(super) fn of_stage(&self, position: usize) -> Self {
        Self {
            position,
            ..self.clone()
        }
    }

    /// For another build that is told to the same listener.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.steps.clone())
    }

    pub(super) async fn tell(&self, step: BuildStep) {
        let mut turns = self.turns.lock().await;
        if self.position <= turns.current {
            // Told under the lock: what comes later must not overtake it.
            drop(self.steps.send(step).await);
        } else {
            turns.held(self.position).push(step);
        }
    }

    /// The stage is done: the next one's turn.
    pub(super) async fn end(&self) {
        let mut turns = self.turns.lock().await;
        turns.held(self.position).is_ended = true;
        while turns.stages.get(turns.current).is_some_and(|held| held.is_ended) {
            turns.current += 1;
            let next = turns.current;
            for step in turns.held(next).take() {
                drop(self.steps.send(step).await);
            }
        }
    }

    /// The stage failed: what it has told must be seen, whoever's turn it is.
    pub(super) async fn fail(&self) {
        let mut turns = self.turns.lock().await;
        for step in turns.held(self.position).take() {
            drop(self.steps.send(step).await);
        }
    }
}

impl Turns {
    fn held(&mut self, position: usize) -> &mut Held {
        if self.stages.len() <= position {
            self.stages.resize_with(position + 1, Held::default);
        }
        &mut self.stages[position]
    }
}

impl Held {
    fn push(&mut self, step: BuildStep) {
        self.bytes += bytes_of(&step);
        self.steps.push_back(step);
        while self.bytes > HELD_BYTES_MAX {
            let oldest = self
                .steps
                .iter()
                .position(|step| matches!(step, BuildStep::Output(_)));
            let Some(dropped) = oldest.and_then(|at| self.steps.remove(at)) else {
                return;
            };
            self.bytes -= bytes_of(&dropped);
        }
    }

    fn take(&mut self) -> VecDeque<BuildStep> {
        self.bytes = 0;
        std::mem::take(&mut self.steps)
    }
}

fn bytes_of(step: &BuildStep) -> usize {
    match step {
        BuildStep::Output(bytes) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> BuildStep {
        BuildStep::Note(text.to_owned())
    }

    #[tokio::test]
    async fn stages_are_told_in_order_whichever_is_first() {
        let (steps, mut told) = mpsc::channel(16);
        let teller = Teller::new(steps);
        let (first, second, third) = (teller.of_stage(0), teller.of_stage(1), teller.of_stage(2));
        second.tell(note("2a")).await;
        third.tell(note("3a")).await;
        first.tell(note("1a")).await;
        second.end().await;
        third.fail().await;
        first.tell(note("1b")).await;
        first.end().await;
        third.tell(note("3b")).await;
        drop((teller, first, second, third));
        let mut all = Vec::new();
        while let Some(BuildStep::Note(text)) = told.recv().await {
            all.push(text);
        }
        assert_eq!(all, ["1a", "3a", "1b", "2a", "3b"]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut held = Held::default();
        held.push(note("kept"));
        for _ in 0..100 {
            held.push(BuildStep::Output(vec![0; HELD_BYTES_MAX / 10].into()));
        }
        assert!(held.bytes <= HELD_BYTES_MAX && held.steps.len() <= 11);
        assert_eq!(held.steps[0], note("kept"));
    }
}

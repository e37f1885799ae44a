//! The words of `docker ps`: `Up 5 seconds`, `Exited (0) 2 minutes ago`.

use naru_base::Timestamp;
use naru_engine::HealthStatus;
use naru_engine::record::ContainerState;

/// Docker's one word for the state.
pub fn state_word(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running { .. } => "running",
        ContainerState::Paused { .. } => "paused",
        ContainerState::Restarting { .. } => "restarting",
        ContainerState::Exited { .. } => "exited",
        ContainerState::Removing => "removing",
    }
}

/// The state in words, with the health of one that runs.
pub fn status_text(state: &ContainerState, health: Option<HealthStatus>, now: Timestamp) -> String {
    let since = |then: Timestamp| duration_text(now.as_second() - then.as_second());
    match state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running { started_at, .. } => {
            let health = match health {
                None => "",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(*started_at))
        }
        ContainerState::Paused { started_at, .. } => format!("Up {} (Paused)", since(*started_at)),
        ContainerState::Restarting { exit } => {
            format!("Restarting ({}) {} ago", exit.exit_code, since(exit.finished_at))
        }
        ContainerState::Exited { exit } => {
            format!("Exited ({}) {} ago", exit.exit_code, since(exit.finished_at))
        }
        ContainerState::Removing => "Removal In Progress".to_owned(),
    }
}

/// Go's `units.HumanDuration`, which every Docker client shows.
pub fn duration_text(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let minutes = seconds / 60;
    // Go rounds the hours to the nearest.
    let hours = (seconds + 1800) / 3600;
    let days = hours / 24;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{days} days"),
        () if hours < 24 * 30 * 2 => format!("{} weeks", days / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", days / 30),
        () => format!("{} years", seconds / (3600 * 24 * 365)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_engine::record::ExitSummary;

    #[test]
    fn durations_read_as_dockers() {
        let cases = [
            (-5, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3_599, "59 minutes"),
            (3_600, "About an hour"),
            (2 * 3_600, "2 hours"),
            (47 * 3_600, "47 hours"),
            (48 * 3_600, "2 days"),
            (15 * 86_400, "2 weeks"),
            (61 * 86_400, "2 months"),
            (800 * 86_400, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration_text(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn states_read_as_dockers() {
        let now = Timestamp::from_parts(1_000, 0);
        let started_at = Timestamp::from_parts(880, 0);
        let paused = ContainerState::Paused {
            pid: 1,
            start_time: 1,
            started_at,
        };
        assert_eq!(status_text(&paused, None, now), "Up 2 minutes (Paused)");
        let exit = ExitSummary {
            exit_code: 137,
            oom_killed: true,
            started_at: None,
            finished_at: Timestamp::from_parts(995, 0),
            error: String::new(),
        };
        assert_eq!(
            status_text(&ContainerState::Exited { exit }, None, now),
            "Exited (137) 5 seconds ago"
        );
        assert_eq!(status_text(&ContainerState::Created, None, now), "Created");
    }
}

//! Zone, taint, drain on a fake cluster; time is paused.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use additional_storage_csi::kube::drain::{self, Drained};
use additional_storage_csi::kube::taint::{Taint, remove_when_registered};
use additional_storage_csi::kube::zone::wait_for_zone;
use additional_storage_csi::kube::{
    Attachment, Cluster, ClusterNode, KubeError, PersistentVolume, STARTUP_TAINT,
};
use async_trait::async_trait;
use tokio::time::Instant;

type Answer<T> = Result<T, KubeError>;

/// Answers in turn; the last one stays.
#[derive(Debug, Default)]
struct Fake {
    nodes: Mutex<VecDeque<Answer<Option<ClusterNode>>>>,
    shows: Mutex<VecDeque<bool>>,
    removals: Mutex<VecDeque<Answer<()>>>,
    attachments: Mutex<VecDeque<Vec<Attachment>>>,
}

fn next<T: Clone>(answers: &Mutex<VecDeque<T>>) -> T {
    let mut answers = answers.lock().unwrap();
    if answers.len() > 1 {
        answers.pop_front().unwrap()
    } else {
        answers
            .front()
            .expect("an answer that was not expected")
            .clone()
    }
}

#[async_trait]
impl Cluster for Fake {
    async fn node(&self, _name: &str) -> Answer<Option<ClusterNode>> {
        next(&self.nodes)
    }
    async fn shows_driver(&self, _node: &str) -> Answer<bool> {
        Ok(next(&self.shows))
    }
    async fn remove_taint(&self, _node: &ClusterNode, _key: &str) -> Answer<()> {
        self.removals
            .lock()
            .unwrap()
            .pop_front()
            .expect("a removal that was not expected")
    }
    async fn attachments(&self) -> Answer<Vec<Attachment>> {
        Ok(next(&self.attachments))
    }
    async fn volumes(&self) -> Answer<Vec<PersistentVolume>> {
        Ok(Vec::new())
    }
}

fn fake(nodes: Vec<Answer<Option<ClusterNode>>>) -> Fake {
    Fake {
        nodes: Mutex::new(nodes.into()),
        ..Fake::default()
    }
}

fn unreachable() -> KubeError {
    KubeError::Unreachable {
        request: "GET".to_owned(),
        reason: "refused".to_owned(),
    }
}

fn forbidden() -> KubeError {
    KubeError::Forbidden {
        request: "GET".to_owned(),
        reason: "403".to_owned(),
    }
}

fn plain() -> ClusterNode {
    ClusterNode {
        name: "web01".to_owned(),
        ..ClusterNode::default()
    }
}

fn cordoned() -> Answer<Option<ClusterNode>> {
    Ok(Some(ClusterNode {
        cordoned: true,
        ..plain()
    }))
}

fn on(node: &str, volumes: &[&str]) -> Vec<Attachment> {
    let one = |volume: &&str| Attachment {
        node: node.to_owned(),
        volume: (*volume).to_owned(),
        attached: true,
    };
    volumes.iter().map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn the_zone_is_waited_for_until_the_cloud_controller_manager_sets_it() {
    let zone = |zone: &str| {
        Ok(Some(ClusterNode {
            zone: Some(zone.to_owned()),
            ..plain()
        }))
    };
    let cluster = fake(vec![
        Err(unreachable()),
        Ok(None),
        Ok(Some(plain())),
        zone(""),
        zone("east-11"),
    ]);
    assert_eq!(
        wait_for_zone(&cluster, "web01").await.unwrap().as_str(),
        "east-11"
    );
    let cluster = fake(vec![Err(forbidden())]);
    assert_eq!(wait_for_zone(&cluster, "web01").await, Err(forbidden()));
}

#[tokio::test(start_paused = true)]
async fn the_startup_taint_goes_when_the_csinode_shows_the_driver() {
    let tainted = Ok(Some(ClusterNode {
        taints: vec![STARTUP_TAINT.to_owned()],
        ..plain()
    }));
    let conflict = KubeError::Conflict {
        request: "PATCH".to_owned(),
        reason: "422".to_owned(),
    };
    let cluster = Fake {
        shows: Mutex::new([false, false, true].into()),
        removals: Mutex::new([Err(conflict), Ok(())].into()),
        ..fake(vec![Ok(None), Err(unreachable()), tainted])
    };
    assert_eq!(
        remove_when_registered(&cluster, "web01").await,
        Ok(Taint::Removed)
    );
    assert!(cluster.removals.lock().unwrap().is_empty());
    // Nothing else is asked where there is no taint: the fake has no further answers.
    let cluster = fake(vec![Ok(Some(plain()))]);
    assert_eq!(
        remove_when_registered(&cluster, "web01").await,
        Ok(Taint::Absent)
    );
    let cluster = fake(vec![Err(forbidden())]);
    assert_eq!(
        remove_when_registered(&cluster, "web01").await,
        Err(forbidden())
    );
}

const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(start_paused = true)]
async fn a_roll_of_the_daemonset_does_not_wait() {
    let begin = Instant::now();
    let cluster = fake(vec![Ok(Some(plain()))]);
    assert_eq!(
        drain::wait(&cluster, "web01", LIMIT).await,
        Ok(Drained::NotLeaving)
    );
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let other = ClusterNode {
        taints: vec!["node.kubernetes.io/disk-pressure".to_owned()],
        ..plain()
    };
    assert!(!drain::is_leaving(&other));
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_waits_for_its_own_volumes_only() {
    let elsewhere = on("web02", &["pv9"]);
    let turns = [
        on("web01", &["pv1", "pv2"]),
        on("web01", &["pv2"]),
        elsewhere,
    ];
    for leaving in [
        cordoned(),
        Ok(None),
        Ok(Some(ClusterNode {
            deleting: true,
            ..plain()
        })),
        Ok(Some(ClusterNode {
            shutting_down: true,
            ..plain()
        })),
        Ok(Some(ClusterNode {
            taints: vec!["ToBeDeletedByClusterAutoscaler".to_owned()],
            ..plain()
        })),
    ] {
        let cluster = Fake {
            attachments: Mutex::new(turns.clone().into()),
            ..fake(vec![Err(unreachable()), leaving])
        };
        assert_eq!(
            drain::wait(&cluster, "web01", LIMIT).await,
            Ok(Drained::Gone(2))
        );
    }
    let cluster = Fake {
        attachments: Mutex::new([on("web01", &["pv1"])].into()),
        ..fake(vec![cordoned(), cordoned(), Ok(Some(plain()))])
    };
    assert_eq!(
        drain::wait(&cluster, "web01", LIMIT).await,
        Ok(Drained::NotLeaving),
        "uncordoned"
    );
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_and_names_what_is_left() {
    let begin = Instant::now();
    let cluster = Fake {
        attachments: Mutex::new([on("web01", &["pv1"])].into()),
        ..fake(vec![cordoned()])
    };
    let late = drain::wait(&cluster, "web01", LIMIT).await;
    assert_eq!(late, Ok(Drained::Late(vec!["pv1".to_owned()])));
    assert!(begin.elapsed() <= LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_holds_a_roll_up_for_seconds_only() {
    let begin = Instant::now();
    let cluster = fake(vec![Err(unreachable())]);
    assert_eq!(
        drain::wait(&cluster, "web01", LIMIT).await,
        Err(unreachable())
    );
    assert!(begin.elapsed() <= Duration::from_secs(10));
    let cluster = fake(vec![Err(forbidden())]);
    assert_eq!(
        drain::wait(&cluster, "web01", LIMIT).await,
        Err(forbidden())
    );
}

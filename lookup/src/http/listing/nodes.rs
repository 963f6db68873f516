//! `/nodes`.

use super::{Commas, Listing, Slice, push_name};
use crate::registry::{Node, ProducerId, Progress, Registry, Visibility};

/// One node is never cut, however many topics it has: `tombstones[i]` belongs to `topics[i]`, and
/// clients rely on it.
pub(super) struct Nodes {
    visibility: Visibility,
    last: Option<ProducerId>,
    commas: Commas,
}

impl Nodes {
    pub(super) fn new(visibility: Visibility) -> Self {
        Self {
            visibility,
            last: None,
            commas: Commas::default(),
        }
    }

    fn write_node(&self, registry: &Registry, node: &Node, slice: &mut Slice) {
        slice.push(node.producer().open_json());
        let mut tombstones = Commas::default();
        let mut topics = Commas::default();
        for topic in node.topics_after(None) {
            tombstones.before(slice, ",\"tombstones\":[");
            let tombstone = registry.tombstone_of(node, topic);
            let is_hidden = self.visibility.is_tombstoned(tombstone);
            slice.push(if is_hidden { "true" } else { "false" });
        }
        tombstones.end(slice, ",\"tombstones\":[", "]");
        for topic in node.topics_after(None) {
            topics.before(slice, ",\"topics\":[");
            push_name(slice, topic.as_str());
        }
        topics.end(slice, ",\"topics\":[", "]}");
    }
}

impl Listing for Nodes {
    fn write(&mut self, registry: &Registry, slice: &mut Slice) -> Progress {
        const OPENING: &str = "{\"producers\":[";
        for (id, node) in registry.nodes_after(self.last) {
            if !slice.admit() {
                return Progress::More;
            }
            self.last = Some(id);
            if self.visibility.is_active(node.producer()) {
                self.commas.before(slice, OPENING);
                self.write_node(registry, node, slice);
            }
        }
        self.commas.end(slice, OPENING, "]}");
        Progress::Done
    }
}

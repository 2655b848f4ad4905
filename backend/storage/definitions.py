"""What VMs, templates and storage domains are, as JSON for the storage domains to keep: made by the database from the rows.

docs/storage-format.md says what is in it. Nothing of people, rights, pools, or of what a VM does now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx

_DISKS = """
    SELECT jsonb_agg(jsonb_build_object(
        'id', d.id, 'name', d.name, 'capacity_mib', d.capacity_mib, 'backing_id', d.backing_id
    ) ORDER BY d.backing_id IS NULL, d.name, d.id) FROM disk d WHERE d.path <> '' AND d.{owner}_id = {owner}.id
"""
_HOME = """
    SELECT d.domain_id FROM disk d WHERE d.path <> '' AND d.{owner}_id = {owner}.id ORDER BY d.backing_id IS NULL, d.name LIMIT 1
"""
_SIZE = """
    'id', {row}.id, 'name', {row}.name, 'description', {row}.description, 'cluster', cluster.name, 'boot', {row}.boot,
    'guest_agent', {row}.guest_agent, 'boot_timeout_s', {row}.boot_timeout_s
"""
# what a VM is to be from its next start on is what it is to be
_VM = f"""
    SELECT 'vm' AS of, vm.id AS object_id, ({_HOME.format(owner="vm")}) AS domain_id, jsonb_build_object({_SIZE.format(row="vm")},
        'template_id', vm.template_id, 'resume_behaviour', vm.resume_behaviour, 'high_availability', vm.high_availability,
        'priority', vm.priority, 'created', vm.created_at, 'disks', coalesce(({_DISKS.format(owner="vm")}), '[]'),
        'nics', coalesce((SELECT jsonb_agg(jsonb_build_object('id', n.id, 'name', n.name, 'mac', n.mac, 'bridge', n.bridge,
            'model', n.model, 'linked', n.linked, 'plugged', n.plugged) ORDER BY n.name)
            FROM vnic n WHERE n.vm_id = vm.id), '[]'),
        'snapshots', coalesce((SELECT jsonb_agg(jsonb_build_object('id', s.id, 'name', s.name, 'at_rest', s.at_rest,
            'created', s.created_at) ORDER BY s.created_at, s.name) FROM vm_snapshot s WHERE s.vm_id = vm.id AND s.state = 'ok'),
            '[]')
    ) || jsonb_build_object('memory_mib', vm.memory_mib, 'vcpus', vm.vcpus, 'max_memory_mib', vm.max_memory_mib,
        'max_vcpus', vm.max_vcpus, 'video', vm.video, 'protocols', to_jsonb(vm.protocols))
      || CASE WHEN jsonb_typeof(vm.next_run) = 'object' THEN vm.next_run ELSE '{{}}' END AS body
    FROM vm JOIN cluster ON cluster.id = vm.cluster_id
"""
_TEMPLATE = f"""
    SELECT 'template', template.id, ({_HOME.format(owner="template")}), jsonb_build_object({_SIZE.format(row="template")},
        'version', template.version, 'memory_mib', template.memory_mib, 'vcpus', template.vcpus, 'video', template.video,
        'disks', coalesce(({_DISKS.format(owner="template")}), '[]'))
    FROM template JOIN cluster ON cluster.id = template.cluster_id
"""
_DOMAIN = """
    SELECT 'domain', domain.id, domain.id, jsonb_build_object('id', domain.id, 'name', domain.name, 'type', domain.type,
        'data_center', data_center.name, 'path', domain.path)
    FROM storage_domain domain JOIN data_center ON data_center.id = domain.data_center_id
"""
# What differs from what was written down gets its next generation, at once and for good: so no two attempts ever share one,
# and what an earlier one asked of a host that was slow is older than what a later one asked.
_CLAIM = sa.text(f"""
    WITH wanted AS (SELECT * FROM ({_VM} UNION ALL {_TEMPLATE} UNION ALL {_DOMAIN}) w WHERE domain_id = ANY(:domains)),
    behind AS (
        SELECT domain_id, of, object_id, w.body, coalesce(md5(w.body::text), 'gone') AS digest
        FROM wanted w FULL JOIN (SELECT * FROM kept_definition WHERE domain_id = ANY(:domains)) k USING (domain_id, of, object_id)
        WHERE k.digest IS DISTINCT FROM md5(w.body::text)
        ORDER BY k.generation NULLS FIRST, of, object_id LIMIT :most
    ),
    claimed AS (
        INSERT INTO kept_definition (domain_id, of, object_id) SELECT domain_id, of, object_id FROM behind
        ON CONFLICT (domain_id, of, object_id) DO UPDATE SET generation = kept_definition.generation + 1
        RETURNING domain_id, of, object_id, generation
    )
    SELECT domain_id, of, object_id, generation, coalesce(jsonb_pretty(body), '') AS text, digest
    FROM behind JOIN claimed USING (domain_id, of, object_id) ORDER BY of, object_id
""")


@dataclass(frozen=True)
class Behind:
    """A definition that its storage domain does not have yet as it is now; without text it is to be forgotten there."""

    domain_id: UUID
    of: str
    object_id: UUID
    generation: int
    text: str
    digest: str


def claim(tx: Tx, domains: Collection[UUID], most: int) -> list[Behind]:
    """What these domains are to be given next, each with a generation of its own."""
    if not domains:
        return []
    return [Behind(*row) for row in tx.execute(_CLAIM, {"domains": list(domains), "most": most})]

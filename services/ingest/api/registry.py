"""The registry over HTTP: list, one, history, put, delete, for every kind of entity; and the device profiles."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, JsonValue

from libs.common.contracts.registry import Entity, EntityKind, EntityState
from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from libs.common.registry.file import LISTS
from libs.common.web import Cursor, Limit, Page, key_cursor, read_key_cursor
from services.ingest.api.common import Reader, Writer, actor_of, allowed_sites
from services.ingest.api.schemas import answer, entity_schema, page_of, put_body
from services.ingest.domain.registry import current
from services.ingest.store import registry as store
from services.ingest.usecases.registry import Registry, unknown
from services.ingest.usecases.topology import Topology

EntityBody = dict[str, JsonValue]
IfMatch = Annotated[str | None, Header(alias="If-Match", description="version that was seen, in quotes")]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="* refuses to change what is there")]

FILTERS = ("site", "room", "region", "organisation", "parent", "line", "device", "circuit", "profile", "sim")


class History(BaseModel):
    """Every version of one entity, oldest first."""

    kind: EntityKind
    id: str
    state: EntityState
    versions: list[EntityBody]


class PointOfProfile(BaseModel):
    """One point of a profile."""

    name: str
    unit: str
    slow: bool
    optional: bool
    modulus: float | None = None
    note: str | None = None


class ControlOfProfile(BaseModel):
    """One control of a profile."""

    name: str
    read_back: list[str]
    min: float | None = None
    max: float | None = None
    note: str | None = None


class ProfileSummary(BaseModel):
    """A device profile in a list."""

    name: str
    version: str
    vendor: str
    vendor_zh: str
    model: str
    category: str
    protocol: str
    confidence: str


class ProfileDetail(ProfileSummary):
    """A device profile with its points and controls."""

    transports: list[str]
    side: str | None
    unit_id: int | None
    max_registers_per_read: int
    points: list[PointOfProfile]
    controls: list[ControlOfProfile]
    notes: list[str]
    sources: list[str]


def build_router(*, registry: Registry, topology: Topology, catalogue: ProfileCatalogue, db: Database) -> APIRouter:
    """Return the router with the paths of all kinds."""
    router = APIRouter(prefix="/api/v1")
    for path, kind in LISTS.items():
        _add_kind(router, path, kind, registry=registry, topology=topology, db=db)
    _add_profiles(router, catalogue)
    return router


def _add_kind(
    router: APIRouter, path: str, kind: EntityKind, *, registry: Registry, topology: Topology, db: Database
) -> None:
    one = answer(entity_schema(kind), f"the {kind}")
    page = answer(page_of(entity_schema(kind)), f"a page of {path}")

    @router.get(f"/{path}", name=f"list_{path}", tags=["registry"], responses={200: page})
    async def list_entities(
        request: Request,
        principal: Reader,
        cursor: Cursor = None,
        limit: Limit = 100,
        q: Annotated[str | None, Query(max_length=200, description="in id, name, code or serial")] = None,
        state: Annotated[EntityState, Query(description="removed: also those that are gone")] = EntityState.ACTIVE,
        site: str | None = None,
        room: str | None = None,
        region: str | None = None,
        organisation: str | None = None,
        parent: str | None = None,
        line: str | None = None,
        device: str | None = None,
        circuit: str | None = None,
        profile: str | None = None,
        sim: str | None = None,
        of_kind: Annotated[str | None, Query(alias="kind", description="kind of the site, device, load …")] = None,
    ) -> Page[EntityBody]:
        given = (site, room, region, organisation, parent, line, device, circuit, profile, sim)
        filters: dict[str, Any] = {name: value for name, value in zip(FILTERS, given, strict=True) if value is not None}
        if of_kind is not None:
            filters["kind"] = of_kind
        allowed = allowed_sites(principal, topology, request)
        async with db.read() as conn:
            rows = await store.fetch_page(
                conn,
                kind,
                when=request.app.state.platform.clock.now(),
                filters=filters,
                sites=None if allowed is None else sorted(allowed),
                text=q,
                with_removed=state is EntityState.REMOVED,
                after=read_key_cursor(cursor),
                limit=limit + 1,
            )
        items = [_shown(entity, revision, state) for entity, revision, state in rows[:limit]]
        return Page(items=items, next_cursor=key_cursor(rows[limit - 1][0].id) if len(rows) > limit else None)

    @router.get(f"/{path}/{{entity_id}}", name=f"get_{kind}", tags=["registry"], responses={200: one})
    async def get_entity(entity_id: str, request: Request, response: Response, principal: Reader) -> EntityBody:
        record = await registry.get(kind, entity_id)
        await _check_seen(kind, entity_id, request, principal)
        response.headers["etag"] = f'"{record.revision}"'
        return _shown(current(record, request.app.state.platform.clock.now()), record.revision, record.state)

    @router.get(f"/{path}/{{entity_id}}/history", name=f"get_{kind}_history", tags=["registry"])
    async def get_history(entity_id: str, request: Request, principal: Reader) -> History:
        record = await registry.get(kind, entity_id)
        await _check_seen(kind, entity_id, request, principal)
        versions = [version.model_dump(mode="json", exclude_none=True) for version in record.versions]
        return History(kind=kind, id=entity_id, state=record.state, versions=versions)

    @router.put(
        f"/{path}/{{entity_id}}",
        name=f"put_{kind}",
        tags=["registry"],
        responses={200: one, 201: one},
        openapi_extra=put_body(kind),
    )
    async def put_entity(
        entity_id: str,
        body: EntityBody,
        request: Request,
        response: Response,
        principal: Writer,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> EntityBody:
        expected = _expected(if_match, body.get("version"))
        changed = await registry.put(
            kind,
            entity_id,
            body,
            actor_of(principal, request, topology),
            expected=expected,
            only_new=if_none_match is not None and if_none_match.strip() == "*",
        )
        response.status_code = 201 if changed.created else 200
        response.headers["etag"] = f'"{changed.revision}"'
        return _shown(changed.entity, changed.revision, EntityState.ACTIVE)

    @router.delete(f"/{path}/{{entity_id}}", name=f"delete_{kind}", tags=["registry"], status_code=204)
    async def delete_entity(entity_id: str, request: Request, principal: Writer, if_match: IfMatch = None) -> Response:
        actor = actor_of(principal, request, topology)
        await registry.remove(kind, entity_id, actor, expected=_expected(if_match, None))
        return Response(status_code=204)

    async def _check_seen(kind: EntityKind, entity_id: str, request: Request, principal: Reader) -> None:
        allowed = allowed_sites(principal, topology, request)
        if allowed is None:
            return
        async with db.read() as conn:
            site = (await store.fetch_sites(conn, [entity_id])).get(entity_id)
        if site is not None and site not in allowed:
            raise unknown(kind, entity_id)


def _add_profiles(router: APIRouter, catalogue: ProfileCatalogue) -> None:
    @router.get("/profiles", tags=["profiles"])
    async def list_profiles(
        _: Reader, cursor: Cursor = None, limit: Limit = 100, category: str | None = None
    ) -> Page[ProfileSummary]:
        after = read_key_cursor(cursor)
        ordered = sorted(
            (
                profile
                for profile in catalogue
                if (category is None or profile.category == category) and (after is None or profile.name > after)
            ),
            key=lambda profile: profile.name,
        )
        items = [ProfileSummary(**_summary(profile)) for profile in ordered[:limit]]
        return Page(items=items, next_cursor=key_cursor(items[-1].name) if len(ordered) > limit else None)

    @router.get("/profiles/{name}", tags=["profiles"])
    async def get_profile(name: str, _: Reader, version: str | None = None) -> ProfileDetail:
        profile = catalogue.get(name, version)
        return ProfileDetail(
            **_summary(profile),
            transports=sorted(profile.transports),
            side=profile.side,
            unit_id=profile.unit_id,
            max_registers_per_read=profile.max_registers_per_read,
            points=[
                PointOfProfile(
                    name=point.name, unit=point.unit, slow=point.slow, optional=point.optional,
                    modulus=point.modulus, note=point.note,
                )
                for point in profile.points.values()
            ],
            controls=[
                ControlOfProfile(
                    name=control.name, read_back=list(control.read_back.points), min=control.min, max=control.max,
                    note=control.note,
                )
                for control in profile.controls.values()
            ],
            notes=list(profile.notes),
            sources=list(profile.sources),
        )  # fmt: skip


def _summary(profile: DeviceProfile) -> dict[str, Any]:
    return {
        "name": profile.name, "version": profile.version, "vendor": profile.vendor, "vendor_zh": profile.vendor_zh,
        "model": profile.model, "category": profile.category, "protocol": profile.protocol,
        "confidence": profile.confidence,
    }  # fmt: skip


def _shown(entity: Entity, revision: int, state: EntityState) -> EntityBody:
    """Return an entity as the API shows it; its version is that of the whole record, for ``If-Match``."""
    shown: EntityBody = entity.model_dump(mode="json", exclude_none=True)
    return {**shown, "version": revision, "state": state.value}


def _expected(if_match: str | None, in_body: JsonValue) -> int | None:
    """Return the version that the caller has seen.

    Raises:
        InvalidInput: It is no number, or header and body differ.
    """
    given = None if if_match is None or if_match.strip() == "*" else if_match.strip().removeprefix("W/").strip('"')
    if given is not None and not given.isdigit():
        raise InvalidInput(f"If-Match {if_match}: expected a version in quotes", message_zh="If-Match 无效")
    if in_body is not None and not isinstance(in_body, int):
        raise InvalidInput("version: expected a number", message_zh="version 应为数字")
    if given is not None and in_body is not None and int(given) != in_body:
        raise InvalidInput("If-Match and version differ", message_zh="If-Match 与 version 不一致")
    return int(given) if given is not None else in_body

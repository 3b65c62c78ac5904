-- Who signs in, besides the administrator who migrates: one user per service, who may do what the service's role may
-- and nothing else. Run once by an administrator, with psql, in Wattring's database; running it again changes the
-- passwords to what WATTRING_DB_PASSWORD says. The roles are the same that `wattring migrate` creates when missing.
\set ON_ERROR_STOP on
\getenv password WATTRING_DB_PASSWORD
select 'create role wattring_bus nologin' where not exists (select from pg_roles where rolname = 'wattring_bus') \gexec
select format('create role wattring_%s nologin', service)
  from unnest(array['ingest', 'alarm', 'control', 'carbon', 'export', 'gateway']) service
 where not exists (select from pg_roles where rolname = 'wattring_' || service) \gexec
select format('grant wattring_bus to wattring_%s', service)
  from unnest(array['ingest', 'alarm', 'control', 'carbon', 'export', 'gateway']) service \gexec
select format('create role %I login', service)
  from unnest(array['ingest', 'alarm', 'control', 'carbon', 'export', 'gateway']) service
 where not exists (select from pg_roles where rolname = service) \gexec
select format('alter role %I password %L', service, :'password')
  from unnest(array['ingest', 'alarm', 'control', 'carbon', 'export', 'gateway']) service \gexec
select format('grant wattring_%s to %I', service, service)
  from unnest(array['ingest', 'alarm', 'control', 'carbon', 'export', 'gateway']) service \gexec

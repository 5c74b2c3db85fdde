import { Duration } from "aws-cdk-lib";

/** What the router's Caddyfile depends on. */
export interface RouterSettings {
  /** The function as the router invokes it: name or name:alias. */
  readonly functionName: string;
  /** Most requests at once in one environment of the function. */
  readonly maxConcurrent: number;
  /** Most instances of each router. */
  readonly maxInstances: number;
  /** How long a request may wait for a slot. Less than the load balancer's idle timeout. */
  readonly queueTimeout: Duration;
  /** How long everything is served after SIGTERM while the health check fails. */
  readonly shutdownDelay: Duration;
  /** How long what still runs may take after that. */
  readonly gracePeriod: Duration;
  /** How long a client's connection may be idle. More than the load balancer's idle timeout. */
  readonly idleTimeout: Duration;
  /** Where the load balancer's addresses are: CIDR blocks, or private_ranges. */
  readonly trustedProxies: string[];
  /** name=ID of each zone, separated by spaces, or auto. */
  readonly zones: string;
  /** Metrics for CloudWatch, if any. */
  readonly cloudWatchMetrics?: CloudWatchMetrics;
  /** More subdirectives of lambda_dispatch, one each, such as "min_instances 2". */
  readonly directives: string[];
}

/** What routers write once a minute, of which CloudWatch makes metrics. */
export interface CloudWatchMetrics {
  /** @default LambdaDispatch */
  readonly namespace?: string;
  /** Name to value, next to pool. Each combination of values is a metric, which CloudWatch bills. @default service: the stack's name */
  readonly dimensions?: Record<string, string>;
}

/** Where the load balancer asks for a router's health. */
export const HEALTH_PATH = "/lambda-dispatch/health";
/** Where clients' requests come to a router. */
export const SITE_PORT = 8080;
/** Where environments of the function connect to. */
export const CALLBACK_PORT = 7443;

/** The Caddyfile of a router, the same as that of the CloudFormation templates. */
export function routerCaddyfile(s: RouterSettings): string {
  const more = s.directives.map((d) => `\t\t\t${d}\n`).join("");
  return `{
	auto_https off
	# SHUTDOWN. From SIGTERM on the health check fails. For shutdown_delay
	# everything is served as before, until the load balancer has
	# noticed; then what still runs has grace_period to end.
	shutdown_delay ${s.shutdownDelay.toSeconds()}s
	grace_period ${s.gracePeriod.toSeconds()}s
	# The file system is read-only, and there is nothing to keep.
	persist_config off
	storage_check off
	storage_clean_interval off
	servers {
		protocols h1
		# Nobody but the load balancer can connect.
		trusted_proxies static ${s.trustedProxies.join(" ")}
		trusted_proxies_strict
		timeouts {
			# IDLE. The load balancer closes idle connections first, so
			# it never sends a request on one that Caddy is closing.
			idle ${s.idleTimeout.toSeconds()}s
			# A client that sends its body slowly holds a slot.
			read_body 5m
		}
	}
	log {
		format json
	}
${metrics(s.cloudWatchMetrics)}}
:${SITE_PORT} {
	log
	handle ${HEALTH_PATH} {
		log_skip
		@draining vars {http.shutting_down} true
		respond @draining "draining" 503
		respond "ok" 200
	}
	handle {
		lambda_dispatch ${s.functionName} {
			max_concurrent ${s.maxConcurrent}
			max_instances ${s.maxInstances}
			queue_timeout ${s.queueTimeout.toSeconds()}s
${more}			callback {
				listen :${CALLBACK_PORT}
				advertise auto
				# ECS tells names of zones, Lambda their IDs.
				zone ${s.zones}
			}
		}
	}
}
`;
}

/** The global option that makes the router write its metrics. */
function metrics(m?: CloudWatchMetrics): string {
  if (!m) return "";
  checkNamespace(m.namespace);
  const namespace = m.namespace === undefined ? "" : `\t\t\tnamespace ${quoted(m.namespace)}\n`;
  const dimensions = Object.entries(m.dimensions ?? {})
    .map(([name, value]) => `\t\t\tdimensions ${quoted(name)} ${quoted(value)}\n`)
    .join("");
  return `\tlambda_dispatch {\n\t\tcloudwatch_metrics {\n${namespace}${dimensions}\t\t}\n\t}\n`;
}

// What the router refuses, but only when its task starts. Placeholders are its to fill.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html#Namespace
function checkNamespace(namespace?: string): void {
  if (namespace === undefined || namespace.includes("{")) return;
  if (!/^[A-Za-z0-9._/#-][A-Za-z0-9._/#: -]{0,254}$/.test(namespace) || namespace.trim() !== namespace || namespace.startsWith("AWS/")) {
    throw new Error(
      `cloudWatchMetrics.namespace ${JSON.stringify(namespace)}: up to 255 letters, digits and .-_/#: are allowed, no colon in front and no AWS/, which is Amazon's`,
    );
  }
}

// https://caddyserver.com/docs/caddyfile/concepts#tokens-and-quotes
function quoted(text: string): string {
  if (/["\\\n]/.test(text)) {
    throw new Error(`${JSON.stringify(text)}: quotes, backslashes and line breaks cannot be in a name or value of cloudWatchMetrics`);
  }
  return `"${text}"`;
}

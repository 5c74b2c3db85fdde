import { Duration } from "aws-cdk-lib";
import type { LambdaDispatchRouterProps } from "./router.js";

/** On-demand, mixed: one router on Fargate and all others on Fargate Spot, spot: all on Fargate Spot. */
export type Capacity = "on-demand" | "mixed" | "spot";

/** What Fargate allows at most, and what Spot leaves. */
export const STOP_TIMEOUT = Duration.seconds(120);
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html#deregistration-delay
const MOST_DEREGISTRATION_DELAY = Duration.hours(1);
/** How long a client's connection to a router may be idle. */
export const IDLE_TIMEOUT = Duration.seconds(300);

/** Numbers of a router that depend on each other. */
export interface Numbers {
  readonly minRouters: number;
  readonly maxRouters: number;
  readonly maxInstances: number;
  readonly maxConcurrent: number;
  readonly queueTimeout: Duration;
  readonly balancerIdleTimeout: Duration;
  readonly deregistrationDelay: Duration;
  readonly capacity: Capacity;
}

export function numbersOf(props: LambdaDispatchRouterProps): Numbers {
  return {
    minRouters: props.minRouters ?? 2,
    maxRouters: props.maxRouters ?? 4,
    maxInstances: props.maxInstances ?? 10,
    maxConcurrent: props.maxConcurrent ?? 10,
    queueTimeout: props.queueTimeout ?? Duration.minutes(1),
    balancerIdleTimeout: props.balancerIdleTimeout ?? Duration.minutes(2),
    deregistrationDelay: props.deregistrationDelay ?? Duration.seconds(90),
    capacity: props.capacity ?? "on-demand",
  };
}

/** Refuses numbers that do not fit together, at synthesis. The names are those of service.yaml's rules. */
export function checkNumbers(n: Numbers, reserved?: number): void {
  checkCounts(n);
  checkCalls(n, reserved);
  checkTimes(n);
}

function checkCounts(n: Numbers): void {
  for (const name of ["minRouters", "maxRouters", "maxInstances", "maxConcurrent"] as const) {
    // A token is a negative number, which could be neither compared nor put into the Caddyfile.
    if (!Number.isInteger(n[name]) || n[name] < 1) {
      throw new Error(`${name} must be a whole number from 1 on that is known when the app is synthesised`);
    }
  }
  if (n.minRouters > n.maxRouters) {
    throw new Error(`minRouters ${n.minRouters} is more than maxRouters ${n.maxRouters}`);
  }
  if (n.capacity === "spot" && n.minRouters === 1) {
    throw new Error(
      'the only router would end with each Spot interruption: with capacity "spot" minRouters must be 2 or more, or choose "mixed"',
    );
  }
}

/** CALLS */
function checkCalls(n: Numbers, reserved?: number): void {
  const most = n.maxInstances * n.maxRouters * 2;
  if (reserved === undefined || most <= reserved) return;
  throw new Error(
    `maxInstances ${n.maxInstances} x maxRouters ${n.maxRouters} x 2, for deployments, is ${most}, ` +
      `more than the function's reservedConcurrentExecutions of ${reserved}`,
  );
}

/** IDLE and DRAIN */
function checkTimes(n: Numbers): void {
  const queue = n.queueTimeout.toSeconds();
  const balancer = n.balancerIdleTimeout.toSeconds();
  const drain = n.deregistrationDelay.toSeconds();
  if (queue === 0) {
    throw new Error("queueTimeout must be a second or more: requests wait for the start of an instance, too");
  }
  if (queue >= balancer) {
    throw new Error(
      `queueTimeout ${queue} s must be less than balancerIdleTimeout, ${balancer} s: the load balancer would give up first`,
    );
  }
  if (balancer >= IDLE_TIMEOUT.toSeconds()) {
    throw new Error(
      `balancerIdleTimeout ${balancer} s must be less than ${IDLE_TIMEOUT.toSeconds()} s, ` +
        "after which the router closes idle connections",
    );
  }
  if (drain > MOST_DEREGISTRATION_DELAY.toSeconds()) {
    throw new Error(`deregistrationDelay ${drain} s is more than ${MOST_DEREGISTRATION_DELAY.toSeconds()} s, which load balancers allow`);
  }
  if (n.capacity !== "on-demand" && drain >= STOP_TIMEOUT.toSeconds()) {
    throw new Error(
      `deregistrationDelay ${drain} s must be less than ${STOP_TIMEOUT.toSeconds()} s, which is all that Spot leaves`,
    );
  }
}

/** Refuses options that do not go together. */
export function checkOptions(props: LambdaDispatchRouterProps): void {
  const { certificate, clients, internetFacing, conditions, priority, listener, cluster, vpc } = props;
  if (listener && (certificate || clients || internetFacing !== undefined)) {
    throw new Error(
      "a listener that is there already has its load balancer, certificates and clients: " +
        "leave certificate, clients and internetFacing out",
    );
  }
  if (!listener && (conditions || priority !== undefined)) {
    throw new Error("conditions and priority are of a rule for listener, and there is none");
  }
  if (!conditions !== (priority === undefined)) {
    throw new Error("a rule for listener has both conditions and a priority");
  }
  if (cluster && cluster.vpc.vpcId !== vpc.vpcId) {
    throw new Error(
      `the cluster ${cluster.node.path} is of another VPC than ${vpc.node.path}: ECS would look for the routers' subnets there`,
    );
  }
}

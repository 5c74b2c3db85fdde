import * as ec2 from "aws-cdk-lib/aws-ec2";
import { Construct, Dependable, type IDependable } from "constructs";

/**
 * Adds what routers in subnets without a way to the internet need of AWS:
 * endpoints for their image, their logs and Lambda's API.
 */
export function addRouterEndpoints(vpc: ec2.Vpc): void {
  const services = {
    Lambda: ec2.InterfaceVpcEndpointAwsService.LAMBDA,
    Logs: ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    EcrApi: ec2.InterfaceVpcEndpointAwsService.ECR,
    Ecr: ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
  };
  for (const [name, service] of Object.entries(services)) {
    vpc.addInterfaceEndpoint(`${name}Endpoint`, { service });
  }
  vpc.addGatewayEndpoint("S3Endpoint", { service: ec2.GatewayVpcEndpointAwsService.S3 });
}

/**
 * The endpoints that the VPC has when the app is synthesised, to depend on: tasks that start before
 * them cannot fetch their image, and ECS would give the deployment up.
 */
export function endpointsOf(vpc: ec2.IVpc): IDependable {
  const endpoints = {};
  Dependable.implement(endpoints, {
    get dependencyRoots() {
      return vpc.node
        .findAll()
        .filter((c) => c instanceof ec2.InterfaceVpcEndpoint || c instanceof ec2.GatewayVpcEndpoint);
    },
  });
  return endpoints;
}

/** Where addresses of the VPC are. An imported VPC may not say, but throws. */
export function rangesOf(vpc: ec2.IVpc): string[] {
  try {
    return [vpc.vpcCidrBlock];
  } catch {
    return ["private_ranges"];
  }
}

/** What the names of the subnets' zones mean in this account, if the subnets are of this app. */
export function zonesOf(subnets: ec2.ISubnet[]): string {
  const zones = subnets
    .map((s) => s.node.defaultChild)
    .filter((c) => c instanceof ec2.CfnSubnet)
    .map((c) => `${c.attrAvailabilityZone}=${c.attrAvailabilityZoneId}`);
  return zones.length > 0 && zones.length === subnets.length ? zones.join(" ") : "auto";
}

/**
 * A security group that lets nothing out but what is allowed later. EC2 lets everything
 * out of a group that has no rule when it is made, and rules that name another
 * group are made afterwards.
 */
export function closedSecurityGroup(scope: Construct, id: string, vpc: ec2.IVpc, description: string): ec2.SecurityGroup {
  const group = new ec2.SecurityGroup(scope, id, { vpc, description, allowAllOutbound: false });
  group.addEgressRule(ec2.Peer.ipv4("127.0.0.1/32"), ec2.Port.tcp(1), "nothing");
  return group;
}
